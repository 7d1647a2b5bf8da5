// What this machine offers: for doctor and check.
#pragma once

#include <cstdint>
#include <string>

namespace sepia::trainer {

struct MachineFacts {
  std::string cpu;              // "AMD EPYC 9R14"; "unknown" where /proc does not say
  int logical_cpus = 0;         // of the machine
  int usable_cpus = 0;          // that this process may run on (affinity)
  int64_t physical_bytes = 0;   // RAM
  int64_t cgroup_bytes = 0;     // memory limit of the container; 0: none
  int64_t available_bytes = 0;  // free or reclaimable at this moment
  int64_t swap_bytes = 0;       // of all swap devices
  std::string huge_pages;       // "always", "madvise", "never"; "" unknown

  // What one may plan with: RAM or the container's limit.
  int64_t memory_bytes() const;
};

// Values that the system does not tell stay 0 or empty.
MachineFacts ReadMachine();

// Throws UserError(kEnvironment) when `bytes`, what `who` ("two models") needs, are more than
// memory and swap together. Linux hands such memory out, and ends the process when it is written
// to.
void RequireMemory(int64_t bytes, const std::string& who, const std::string& remedy);

// Free bytes of the file system that `path` is, or will be, on; -1 when it cannot be told.
int64_t FreeDiskBytes(const std::string& path);

}  // namespace sepia::trainer
