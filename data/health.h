// What is in a dataset: the facts that explain a strange loss before a run is started.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "data/indexed_dataset.h"

namespace sepia::data {

struct HealthOptions {
  int32_t eod_id = 0;
  std::vector<int32_t> separator_ids;
  int64_t vocab_size = 0;  // ids at or above it are kBadData; 0 = not checked
};

struct DatasetHealth {
  int32_t min_id = 0;  // of an empty dataset: 0
  int32_t max_id = 0;
  int64_t eod_tokens = 0;
  int64_t sequences_ending_with_eod = 0;
  int64_t separator_tokens = 0;

  int64_t empty_sequences = 0;
  int32_t shortest = 0;  // tokens; empty sequences included
  int32_t longest = 0;
  double mean_length = 0;
  // length_counts[b]: sequences of [2^b, 2^(b+1)) tokens.
  std::array<int64_t, 31> length_counts{};
};

// Bytes of the .bin done so far.
using Progress = std::function<void(int64_t)>;

// Reads every token once. Throws kBadData, with file and offset, for an id that is no token.
DatasetHealth ExamineDataset(const IndexedDataset& dataset, const HealthOptions& options,
                             const Progress& progress);

}  // namespace sepia::data
