// A small run on made-up text, and comparisons between two of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/temp_dir.h"

namespace sepia::testing {

// A dataset, a config and room for run directories in one temporary directory.
class TinyRun {
 public:
  TinyRun();

  // Samples in one pass over the data: 4 a step, so an epoch ends in the middle of step 13.
  static constexpr int kSamplesPerEpoch = 50;

  // "sepia train" of the config into run directory `name`, with more arguments.
  std::vector<std::string> Train(const std::string& name,
                                 const std::vector<std::string>& more = {}) const;
  std::string RunDir(const std::string& name) const { return dir_.File(name); }
  std::string Metrics(const std::string& name) const { return RunDir(name) + "/metrics.jsonl"; }
  std::string Checkpoint(const std::string& name, int64_t step) const;
  std::string File(const std::string& name) const { return dir_.File(name); }

 private:
  TempDir dir_;
};

// More arguments for a run that goes on until it is stopped.
std::vector<std::string> EndlessOptions();

// metrics.jsonl, one object a step.
std::vector<nlohmann::ordered_json> ReadMetrics(const std::string& path);

// metrics.jsonl without what measures time or memory, one line a step.
std::vector<std::string> ComparableMetrics(const std::string& path);

// Steps of a run, and how many of them were skipped.
int64_t CountSkipped(const std::string& metrics_path);

// Weights, moments and the rest of two step directories, bit for bit. Returns the differences.
std::vector<std::string> CompareCheckpoints(const std::string& a, const std::string& b);

}  // namespace sepia::testing
