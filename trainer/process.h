// Facts about this process and its machine.
#pragma once

#include <cstdint>
#include <string>

namespace sepia::trainer {

std::string HostName();

// Resident memory; 0 where /proc does not say.
int64_t ResidentBytes();

// The command line, quoted for a shell; empty where /proc does not say.
std::string CommandLine();

}  // namespace sepia::trainer
