// Byte-pair encoding of one word: its bytes become tokens, then the adjacent pair with the lowest
// rank is merged, the leftmost first, until no pair is in the table (Sennrich et al. 2016).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer_spec.h"

namespace sepia::data {

// Immutable, thread-safe.
class BytePairEncoder {
 public:
  explicit BytePairEncoder(const TokenizerSpec& spec);

  // Reused between words; one a thread.
  class Scratch {
    friend class BytePairEncoder;

    // A token of the word, in a doubly linked list; merged-away tokens have id kNone.
    struct Symbol {
      int32_t id;
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      int32_t rank;
      int32_t position;  // of the left symbol
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    int64_t num_candidates = 0;

   public:
    // Pairs considered so far: the work done, for tests of its growth.
    int64_t num_steps() const { return num_candidates; }
  };

  // Appends the ids of `word` (bytes, fewer than 2^31). O(n log n) whatever the word.
  // Bytes without a token are left out, as in Hugging Face tokenizers.
  void Encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  // How many of the 243 bytes that occur in UTF-8 have no token.
  int num_missing_bytes() const;

 private:
  static constexpr int32_t kNone = -1;

  struct RankedMerge {
    uint64_t pair;  // left id, right id
    int32_t rank;
    int32_t result;
  };
  static constexpr uint64_t kFree = ~uint64_t{0};

  static uint64_t PairOf(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  // The slot that holds `pair`, or the free one where it belongs.
  size_t Slot(uint64_t pair) const;
  void PushCandidate(int32_t position, Scratch& scratch) const;
  void MergeAll(Scratch& scratch) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<RankedMerge> table_;  // open addressing, a power of two, at most half full
};

}  // namespace sepia::data
