// Everything that a byte-level BPE tokenizer.json says, as plain values: what the reader produces,
// the trainer writes and exporters (GGUF) walk through.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer/vocabulary.h"

namespace sepia::data {

// Two adjacent tokens that become one.
struct Merge {
  int32_t left;
  int32_t right;
  int32_t result;

  friend bool operator==(const Merge&, const Merge&) = default;
};

// A literal text that is found before BPE.
struct AddedToken {
  int32_t id;
  std::string text;
  bool special;     // left out of decoded text on request
  bool normalized;  // found in the normalized text, not in the raw one
  bool in_model;    // also an entry of the BPE model's own vocabulary
};

struct TokenizerSpec {
  // Model tokens are written in the byte alphabet (byte_alphabet.h), added tokens as they are.
  Vocabulary vocabulary;
  std::vector<Merge> merges;  // by rank: earlier ones are applied first
  std::vector<AddedToken> added_tokens;
  bool normalize_nfc = false;
  bool add_prefix_space = false;
  bool use_regex = true;  // split into words before BPE
};

}  // namespace sepia::data
