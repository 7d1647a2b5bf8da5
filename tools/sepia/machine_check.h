// What `sepia doctor` looks at on one machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace sepia::tools {

enum class Verdict : uint8_t { kGood, kNote, kBad };

struct Finding {
  Verdict verdict;
  std::string what;  // "memory"
  std::string text;  // with the remedy, where one is needed
};

// Processor, GPU where the build can use one or `device` is CUDA, memory, disk of `directory`.
// Opens the GPU. Does not throw.
std::vector<Finding> CheckMachine(const std::string& directory, Device device);

// Threads of a process that works alone on its machine.
Finding CheckThreads();

// "ok    memory      ..."
std::string FormatFinding(const Finding& finding);

// For GatherTexts.
std::string Encode(const std::vector<Finding>& findings);
std::vector<Finding> DecodeFindings(const std::string& text);

}  // namespace sepia::tools
