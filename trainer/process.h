// Facts about this process and its machine.
#pragma once

#include <cstdint>
#include <string>

namespace sepia::trainer {

std::string HostName();

// Resident memory; 0 where /proc does not say.
int64_t ResidentBytes();

// The most it has been since the start of the process or the last reset; 0 where /proc does not
// say.
int64_t PeakResidentBytes();
// Where the system refuses, the peak goes on.
void ResetPeakResident();
// The most address space it has had; 0 where /proc does not say.
int64_t PeakMappedBytes();

// The command line, quoted for a shell; empty where /proc does not say.
std::string CommandLine();

}  // namespace sepia::trainer
