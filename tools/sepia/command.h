// One subcommand of the binary: a file in this folder with one function, listed in main.cc.
//
//   void AddProbeCommand(CLI::App& app) {
//     auto options = std::make_shared<ProbeOptions>();
//     CLI::App* command = app.add_subcommand("probe", "one forward and backward pass on given tokens");
//     command->add_option("--model", options->model, "...")->required();
//     command->footer("Example:\n  sepia probe --model hf/ --tokens in.safetensors --out out.safetensors");
//     command->final_callback([options] { RunProbe(*options); });
//   }
//
// Run functions throw; main() turns exceptions into one message and the exit code.
#pragma once

#include <CLI/CLI.hpp>

namespace sepia::tools {

void AddTokenizerCommand(CLI::App& app);
void AddTokenizeCommand(CLI::App& app);
void AddDataCommand(CLI::App& app);
void AddProbeCommand(CLI::App& app);
void AddGenerateCommand(CLI::App& app);
void AddEvalCommand(CLI::App& app);
void AddConvertCommand(CLI::App& app);
void AddConvertConfigCommand(CLI::App& app);
void AddCheckpointCommand(CLI::App& app);
void AddTrainCommand(CLI::App& app);
void AddCheckCommand(CLI::App& app);
void AddPlanCommand(CLI::App& app);
void AddExplainConfigCommand(CLI::App& app);
void AddReportCommand(CLI::App& app);
void AddDoctorCommand(CLI::App& app);
void AddBenchCommand(CLI::App& app);

}  // namespace sepia::tools
