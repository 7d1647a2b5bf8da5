// manifest.json: what a run was made with. One record of the run, and one for every start of it.
#pragma once

#include <cstdint>
#include <string>

namespace sepia::trainer {

struct RunManifest {
  // Of the run.
  uint64_t seed = 0;
  std::string numerics;
  std::string precision;
  int64_t parameters = 0;
  std::string train_fingerprint;  // data::Dataset::Fingerprint
  std::string valid_fingerprint;  // empty: none
  std::string config_sha256;      // of config.resolved.textproto
  // Of this start.
  int64_t first_step = 0;  // updates done before
  int ranks = 1;
  int threads = 1;
  std::string attention_isa;
};

// Writes `path` atomically; keeps the starts that the old file lists.
void WriteRunManifest(const std::string& path, const RunManifest& manifest);

}  // namespace sepia::trainer
