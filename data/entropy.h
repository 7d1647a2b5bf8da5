// How predictable a corpus is from its own counts: a scale for a training loss.
#pragma once

#include <cstdint>

#include "data/indexed_dataset.h"

namespace sepia::data {

struct TokenEntropies {
  double unigram = 0;  // H(x_t), nats per token: what counting single tokens can reach
  double bigram = 0;   // H(x_t | x_{t-1}), nats per token: what counting pairs can reach
  int64_t tokens = 0;  // that were counted
};

// Of the first `max_tokens` tokens of the file seen as one stream (8 bytes of memory each), by
// their relative frequencies: H(x_t | x_{t-1}) = H(x_{t-1}, x_t) - H(x_{t-1}).
TokenEntropies ComputeTokenEntropies(const IndexedDataset& dataset, int64_t max_tokens);

}  // namespace sepia::data
