#include "data/entropy.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace sepia::data {
namespace {

// Entropy in nats of the relative frequencies of `values`, which it sorts.
double Entropy(std::vector<uint64_t>& values) {
  std::sort(values.begin(), values.end());
  const auto total = static_cast<double>(values.size());
  double entropy = 0;
  for (size_t begin = 0; begin < values.size();) {
    size_t end = begin + 1;
    while (end < values.size() && values[end] == values[begin]) ++end;
    const double share = static_cast<double>(end - begin) / total;
    entropy -= share * std::log(share);
    begin = end;
  }
  return entropy;
}

}  // namespace

TokenEntropies ComputeTokenEntropies(const IndexedDataset& dataset, int64_t max_tokens) {
  TokenEntropies entropies;
  entropies.tokens = std::min(dataset.num_tokens(), max_tokens);
  std::vector<int32_t> tokens(static_cast<size_t>(entropies.tokens));
  dataset.ReadStream(0, tokens);
  std::vector<uint64_t> values(tokens.begin(), tokens.end());
  entropies.unigram = Entropy(values);
  if (tokens.size() < 2) return entropies;

  values.pop_back();
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    values[t] =
        uint64_t{static_cast<uint32_t>(tokens[t])} << 32 | static_cast<uint32_t>(tokens[t + 1]);
  }
  const double joint = Entropy(values);
  for (size_t t = 0; t + 1 < tokens.size(); ++t) values[t] = static_cast<uint32_t>(tokens[t]);
  entropies.bigram = joint - Entropy(values);
  return entropies;
}

}  // namespace sepia::data
