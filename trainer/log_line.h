// The line about a step that people watch:
//   step 1200/143000 0.84% loss 4.1873 gnorm 0.82 lr 6.00e-4 41.2k tok/s 796 ms (data 0 comm 9%)
//   MFU 38.1% mem 11.2G ETA 1d 7h
#pragma once

#include <cstdint>
#include <string>

#include "trainer/metrics.h"

namespace sepia::trainer {

// `eta_seconds` NaN: not known yet.
std::string FormatLogLine(const StepMetrics& metrics, int64_t total_steps, double eta_seconds);

// "6.00e-4", "0"
std::string FormatRate(double rate);
// "41.2k", "1.31G": three digits and a decimal prefix.
std::string FormatCount(double count);
// "11.2G": binary prefixes.
std::string FormatBytes(int64_t bytes);

}  // namespace sepia::trainer
