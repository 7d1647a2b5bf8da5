// sepia bench: each subcommand verifies what it measures, runs its variants in turn, and prints one
// JSON object a line.
#pragma once

#include <functional>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/dtype.h"
#include "kernels/cpu/cpu_features.h"

namespace sepia::tools {

// One function a file bench_*.cc, listed in bench.cc.
void AddBenchAttentionCommand(CLI::App& bench);
void AddBenchCheckpointCommand(CLI::App& bench);
void AddBenchCollectiveCommands(CLI::App& bench);  // three
void AddBenchGemmCommand(CLI::App& bench);
void AddBenchRooflineCommand(CLI::App& bench);
void AddBenchStepCommand(CLI::App& bench);
void AddBenchTokenizerCommand(CLI::App& bench);

// --dtype f32, bf16 or f16 (also fp32, fp16), or several apart by commas.
void AddDTypesOption(CLI::App& command, std::vector<DType>& dtypes);

// --threads, one or several numbers.
void AddThreadsOption(CLI::App& command, std::vector<int>& threads);
void AddRepeatsOption(CLI::App& command, int& repeats);

// The instruction set whose register peak bounds products of this dtype on this machine.
kernels::cpu::Isa PeakIsa(DType dtype);

// Of repeated measurements.
struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};
Spread Summarize(std::vector<double> values);

// Calls `round`, which measures every variant once and returns their seconds, `count` times. Paced:
// prints {"ready": variants}, then runs a round each time a line arrives on stdin and answers it
// with {"seconds": [...]}, so that another program's measurements can alternate with these.
void RunRounds(int count, bool paced, size_t num_variants,
               const std::function<std::vector<double>()>& round);
void AddPacedOption(CLI::App& command, bool& paced);

// Seconds of one call.
double TimeOnce(const std::function<void()>& run);

}  // namespace sepia::tools
