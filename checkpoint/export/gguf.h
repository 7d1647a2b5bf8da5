// A model as a GGUF file for llama.cpp, architecture "gptneox".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// llama.cpp's token types.
enum class GgufTokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

// A byte-level BPE tokenizer, as llama.cpp wants it. Exactly vocab_size tokens; without any, the
// file holds the tensors alone and llama.cpp needs the tokenizer from elsewhere.
struct GgufTokenizer {
  struct Token {
    std::string text;  // in the byte alphabet of GPT-2: "Ġthe"
    GgufTokenType type = GgufTokenType::kNormal;
  };
  std::vector<Token> tokens;
  std::vector<std::string> merges;  // "Ġ t"
  int32_t end_of_text = 0;
  int32_t padding = 1;
};

struct GgufExportOptions {
  DType dtype = DType::kFloat32;  // of matrices; vectors are always f32, as llama.cpp wants
  std::string name;               // general.name
  GgufTokenizer tokenizer;
};

// Writes the file, reads it back and compares it before it appears under its name. The file and the
// log say so when the model's attention is sparse: llama.cpp computes full attention. Throws
// UserError(kUsage) when `path` exists or the number of tokens is not the vocabulary's.
void ExportGguf(const ModelSource& source, const std::string& path,
                const GgufExportOptions& options);

}  // namespace sepia::checkpoint
