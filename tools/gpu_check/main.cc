// gpu_check: does this GPU do what the tests on the emulated device promise, and how fast? See
// README.md.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "kernels/cuda/dnn.h"
#include "kernels/device.h"
#include "tools/gpu_check/op_checks.h"
#include "tools/gpu_check/speed_checks.h"

namespace sepia::tools::gpu_check {
namespace {

struct Options {
  bool quick = false;
  bool no_speed = false;
  bool no_sanitizer = false;
  std::string json;
};

class Report {
 public:
  void Add(const std::vector<Finding>& findings) {
    for (const Finding& finding : findings) {
      fmt::print("{:<5}{:<12}{:<49} {}\n", finding.ok ? "ok" : "BAD", finding.group, finding.name,
                 finding.detail);
      std::fflush(stdout);
      failures_ += finding.ok ? 0 : 1;
      lines_.push_back({{"group", finding.group},
                        {"name", finding.name},
                        {"ok", finding.ok},
                        {"detail", finding.detail},
                        {"error_over_bound", finding.worst}});
    }
  }
  int failures() const { return failures_; }

  void Write(const std::string& path) const {
    const nlohmann::json report = {{"schema", 1},
                                   {"device", kernels::DeviceName(Device::kCuda)},
                                   {"cudnn", kernels::cuda::DnnName()},
                                   {"failures", failures_},
                                   {"checks", lines_}};
    std::ofstream file(path);
    if (!(file << report.dump(1) << "\n")) throw CannotWrite(path, errno);
  }

 private:
  nlohmann::json lines_ = nlohmann::json::array();
  int failures_ = 0;
};

// Runs the op checks of this program once more under a tool of compute-sanitizer.
Finding Sanitize(const std::string& program, const char* tool) {
  Finding finding = {
      .group = "races", .name = std::string("compute-sanitizer ") + tool, .detail = ""};
  const std::string command = fmt::format(
      "compute-sanitizer --tool {} --error-exitcode 9 '{}' --quick --no-speed "
      "--no-sanitizer > /dev/null 2>&1",
      tool, program);
  const int status = std::system(command.c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  finding.ok = code == 0;
  finding.detail = code == 0   ? "nothing found"
                   : code == 9 ? "found something; run it by hand: " + command
                               : fmt::format("exit code {}: {}", code, command);
  return finding;
}

std::vector<Finding> CheckRaces(const std::string& program) {
  if (std::system("command -v compute-sanitizer > /dev/null 2>&1") != 0) {
    return {{.group = "races",
             .name = "compute-sanitizer",
             .ok = true,
             .detail = "not checked: not in PATH (it comes with the CUDA toolkit)"}};
  }
  return {Sanitize(program, "memcheck"), Sanitize(program, "racecheck"),
          Sanitize(program, "synccheck"), Sanitize(program, "initcheck")};
}

StepSettings StepOf(bool quick) {
  StepSettings settings = {"device=CUDA", "precision=BF16", "kernels.allow_fallback=false"};
  const StepSettings size =
      quick ? StepSettings{"model.preset=\"pythia-14m\"",
                           "model.num_layers=1",
                           "model.vocab_size=128",
                           "data.sequence_length=64",
                           "batch.micro=1",
                           "batch.global=1"}
            : StepSettings{"model.preset=\"pythia-160m\"", "data.sequence_length=2048",
                           "batch.micro=8", "batch.global=8"};
  settings.insert(settings.end(), size.begin(), size.end());
  return settings;
}

int Run(const Options& options, const std::string& program) {
  kernels::OpenDevice(Device::kCuda);
  fmt::print("{}; {}\n", kernels::DeviceName(Device::kCuda), kernels::cuda::DnnName());
  const CheckSizes sizes =
      options.quick ? CheckSizes{.batch = 1, .seq = 70, .heads = 2, .vocabulary = 200}
                    : CheckSizes{.batch = 2, .seq = 1030, .heads = 12, .vocabulary = 50304};
  const SpeedSizes speed =
      options.quick
          ? SpeedSizes{.seqs = {128}, .tokens = 128, .heads = 1, .repetitions = 1}
          : SpeedSizes{
                .seqs = {2048, 8192, 32768}, .tokens = 65536, .heads = 12, .repetitions = 10};
  Report report;
  report.Add(CheckOps(sizes));
  report.Add(CheckDeterminism(sizes));
  if (!options.no_sanitizer) report.Add(CheckRaces(program));
  if (!options.no_speed) {
    report.Add(MeasureAttention(speed));
    report.Add(MeasureTrainingStep(StepOf(options.quick), speed.repetitions));
  }
  if (!options.json.empty()) report.Write(options.json);
  fmt::print("{} failed\n", report.failures());
  return report.failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sepia::tools::gpu_check

int main(int argc, char** argv) {
  sepia::tools::gpu_check::Options options;
  CLI::App app{
      "Checks a GPU: every op against the cpu backend, the same bits twice, races, speed."};
  app.add_flag("--quick", options.quick, "small shapes: seconds, also on the emulated device");
  app.add_flag("--no-speed", options.no_speed, "leave out the measurements");
  app.add_flag("--no-sanitizer", options.no_sanitizer, "do not look for compute-sanitizer");
  app.add_option("--json", options.json, "also write the report here");
  app.footer("Exit code 0: all is well; 1: something is not; 78: no GPU.");
  CLI11_PARSE(app, argc, argv);
  try {
    return sepia::tools::gpu_check::Run(options, std::filesystem::canonical("/proc/self/exe"));
  } catch (const sepia::Error& error) {
    std::cerr << "gpu_check: " << error.what() << "\n";
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << "gpu_check: " << error.what() << "\n";
    return 1;
  }
}
