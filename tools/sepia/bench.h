// sepia bench: each subcommand verifies what it measures, then prints one JSON object a line.
#pragma once

#include <functional>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/dtype.h"

namespace sepia::tools {

// One function a file bench_*.cc, listed in bench.cc.
void AddBenchAttentionCommand(CLI::App& bench);
void AddBenchGemmCommand(CLI::App& bench);
void AddBenchStepCommand(CLI::App& bench);
void AddBenchTokenizerCommand(CLI::App& bench);

// --dtype f32, bf16 or f16 (also fp32, fp16).
void AddDTypeOption(CLI::App& command, DType& dtype);

// Of repeated measurements.
struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};
Spread Summarize(std::vector<double> values);

// Seconds of one call.
double TimeOnce(const std::function<void()>& run);

// One burst of fused multiply-adds on registers, all threads at once, fp32, the running instruction
// set: 1e9 operations a second. Other load on the machine lowers it: take the best of many bursts.
double Fp32PeakGflops(int num_threads);

}  // namespace sepia::tools
