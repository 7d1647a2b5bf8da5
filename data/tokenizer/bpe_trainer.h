// Learns a byte-level BPE vocabulary, with the merges that Hugging Face's BpeTrainer learns.
//
// Words (of GPT-2's pattern, after NFC) are counted; then the adjacent pair with the largest count
// is merged everywhere, again and again. Every adjacent pair counts, overlapping ones too; a merge
// replaces from left to right. Ties: the smallest (left id, right id). So the result depends on the
// counts alone: not on the order of the texts, nor on the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/corpus_reader.h"
#include "data/tokenizer/tokenizer_spec.h"

namespace sepia::data {

// How often each word (raw bytes) occurs.
using WordCounts = std::unordered_map<std::string, int64_t>;

// Adds the words of one text (well-formed UTF-8). Special tokens get no treatment of their own.
void CountWords(std::string_view text, WordCounts& counts);

// The words of a corpus. `report` is called now and then with the bytes of the files used so far.
WordCounts CountCorpusWords(CorpusReader& reader, int num_threads,
                            const std::function<void(int64_t file_bytes)>& report);

struct BpeTrainerOptions {
  int32_t vocab_size = 0;     // special tokens and alphabet included
  int64_t min_frequency = 0;  // stop when the best pair is rarer
  std::vector<std::string> special_tokens = {"<|endoftext|>", "<|padding|>"};
  // All 256 bytes are tokens, so that every text can be encoded; otherwise those that occur.
  bool all_bytes = true;
};

// Vocabulary: special tokens, then the alphabet by code point of its characters, then merges in
// order. Smaller than asked for when the text runs out of pairs. Throws UserError when vocab_size
// does not hold the special tokens and the alphabet, or is too large.
TokenizerSpec TrainBpe(const WordCounts& counts, const BpeTrainerOptions& options);

}  // namespace sepia::data
