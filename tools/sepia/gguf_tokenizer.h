// A tokenizer as llama.cpp wants it in a GGUF file.
#pragma once

#include <cstdint>

#include "checkpoint/export/gguf.h"
#include "data/tokenizer/tokenizer.h"

namespace sepia::tools {

// Exactly `vocab_size` tokens: rows of the model that have no token become "[PAD<id>]", unused.
// Throws UserError(kBadData) when the tokenizer has more.
checkpoint::GgufTokenizer MakeGgufTokenizer(const data::Tokenizer& tokenizer, int32_t vocab_size);

}  // namespace sepia::tools
