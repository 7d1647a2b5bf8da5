// A look at a run's datasets without building anything: headers, and a sample of the tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "trainer/flops.h"
#include "trainer/settings.h"

namespace sepia::trainer {

struct DatasetFacts {
  std::string role;  // "train", "valid", "test", "source"
  std::string prefix;
  bool missing = false;  // there is neither .idx nor .bin
  std::string problem;   // damaged or unsuitable: what, where, remedy; else ""
  int64_t sequences = 0;
  int64_t tokens = 0;
  std::string dtype;
};

// Every dataset that the settings name, opened and checked as for training.
std::vector<DatasetFacts> InspectDatasets(const DataSettings& data);

// About `max_rows` rows of T tokens, evenly spaced over the training datasets.
struct TextSample {
  int64_t tokens = 0;
  int64_t separators = 0;
  int64_t largest_id = 0;
  AttentionWork attention;  // exact for these rows

  double separator_density() const {
    return tokens > 0 ? static_cast<double>(separators) / static_cast<double>(tokens) : 0;
  }
};

// Nothing when no training dataset can be read. An id outside the vocabulary shows in largest_id;
// the attention of that dataset is counted all the same.
std::optional<TextSample> SampleText(const TrainSettings& settings, int64_t max_rows);

}  // namespace sepia::trainer
