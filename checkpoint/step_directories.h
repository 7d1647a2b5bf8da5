// The directory that holds a run's checkpoints: names, candidates, leftovers, retention.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sepia::checkpoint {

// "step_00001000"
std::string StepDirectoryName(int64_t step);
// The step of such a name; nothing for any other name, leftovers included.
std::optional<int64_t> ParseStepDirectoryName(std::string_view name);

// One step_N directory.
struct Candidate {
  std::string path;
  int64_t step = 0;
  std::string fault;  // why it cannot be loaded; empty when it can
};

// Every step_N directory of `root`, highest step first, its metadata and file sizes checked.
// Empty when `root` does not exist. Temporary directories and the LATEST hint are no candidates.
std::vector<Candidate> FindCheckpoints(const std::string& root);

// The checkpoint to resume from: the highest step. Nothing when `root` holds no checkpoint, which
// means a fresh start. Throws BadData when the highest step is damaged, or when `root` holds other
// things but no checkpoint: nothing is ever passed over silently.
std::optional<std::string> NewestCheckpoint(const std::string& root);

// Renames a step directory that cannot be loaded to ".damaged-step_N" (with a number behind where
// that exists): out of the way, nothing lost. Returns the new path.
std::string SetAside(const std::string& path);

// Which checkpoints stay when a new one is committed, besides those that hold a file named KEEP.
struct Retention {
  int keep_last = 0;             // highest steps; 0 = all
  int64_t keep_every = 0;        // multiples of this stay for good; 0 = none
  bool keep_log_spaced = false;  // steps 0, 1, 2, 4, ..., 512 stay for good
};

// Removes what `retention` gives up among the committed checkpoints of `root`; never `newest`,
// which was just committed. Directories without our COMMIT are left alone.
void ApplyRetention(const std::string& root, const Retention& retention, int64_t newest);

// Removes what interrupted saves and removals left: "step_N.tmp-*" and ".trash-*". The caller
// holds the run's lock.
void SweepLeftovers(const std::string& root);

// Takes a checkpoint out of sight with one rename, then deletes its files.
void RemoveCheckpoint(const std::string& path);

}  // namespace sepia::checkpoint
