// Hugging Face tokenizer.json, the subset that Pythia, GPT-NeoX and GPT-2 use: byte-level BPE with
// or without NFC. Anything that would change ids and is not supported is refused by name.
#pragma once

#include <string>
#include <string_view>

#include "data/tokenizer/tokenizer_spec.h"

namespace sepia::data {

// Larger files are refused.
inline constexpr int64_t kMaxTokenizerJsonBytes = int64_t{64} << 20;

// `path` is for messages. Throws UserError(kBadData): malformed JSON, duplicate keys, wrong types,
// ids out of range or used twice, merges without tokens, unsupported components.
TokenizerSpec ParseTokenizerJson(std::string_view json, const std::string& path);

// The same file format; merges as "a b" strings, which every version of the library reads.
std::string FormatTokenizerJson(const TokenizerSpec& spec);

}  // namespace sepia::data
