// A corpus of text files to token ids, document by document, on several threads.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "data/tokenizer/corpus_reader.h"
#include "data/tokenizer/tokenizer.h"

namespace sepia::data {

struct CorpusProgress {
  int64_t num_documents = 0;
  int64_t num_empty = 0;  // documents without text: not among num_documents unless kept
  int64_t num_tokens = 0;
  int64_t text_bytes = 0;
  int64_t file_bytes = 0;  // of the files on disk
};

struct TokenizeOptions {
  int num_threads = 1;
  // Put behind every document. A document without text is then this token alone, otherwise it is
  // dropped.
  std::optional<int32_t> eod_id = std::nullopt;
  // Drop documents without text even so, as GPT-NeoX's preprocessor does.
  bool drop_empty = false;
};

// Calls `use` with the ids of each document, in the order of the files whatever the number of
// threads, and `report` now and then in between. Both are never called at the same time.
CorpusProgress TokenizeCorpus(const Tokenizer& tokenizer, CorpusReader& reader,
                              const TokenizeOptions& options,
                              const std::function<void(std::span<const int32_t>)>& use,
                              const std::function<void(const CorpusProgress&)>& report);

}  // namespace sepia::data
