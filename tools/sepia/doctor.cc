// sepia doctor: is this machine fit for training, and how fast is it?
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "base/error.h"
#include "kernels/context.h"
#include "kernels/gemm_peak.h"
#include "kernels/linear.h"
#include "kernels/sep_attention.h"
#include "tools/sepia/command.h"
#include "trainer/log_line.h"
#include "trainer/machine.h"

namespace sepia::tools {
namespace {

using trainer::FormatBytes;

// Below this not even the smallest Pythia trains with Adam.
constexpr int64_t kLeastMemoryBytes = int64_t{1} << 30;
constexpr int64_t kLeastDiskBytes = int64_t{1} << 30;

struct DoctorOptions {
  std::string directory = ".";
  bool quick = false;
};

class Doctor {
 public:
  explicit Doctor(const DoctorOptions& options)
      : options_(options), machine_(trainer::ReadMachine()) {}

  void Run() {
    CheckProcessor();
    CheckThreads();
    CheckMemory();
    CheckDisk();
    if (!options_.quick) MeasureSpeed();
    NoteLauncher();
    if (failures_ > 0) {
      throw UserError(ExitCode::kEnvironment, fmt::format("{} problem{} on this machine", failures_,
                                                          failures_ == 1 ? "" : "s"));
    }
  }

 private:
  static void Line(const char* verdict, const char* what, const std::string& text) {
    fmt::print("{:<6}{:<12}{}\n", verdict, what, text);
  }
  static void Good(const char* what, const std::string& text) { Line("ok", what, text); }
  static void Note(const char* what, const std::string& text) { Line("note", what, text); }
  void Bad(const char* what, const std::string& text, const std::string& remedy) {
    Line("BAD", what, text + "; " + remedy);
    ++failures_;
  }

  void CheckProcessor() {
    try {
      // The name of the instruction set throws below the floor.
      const std::string attention = kernels::SepAttentionIsaName(DType::kFloat32);
      Good("processor", machine_.cpu);
      Good("attention", attention);
    } catch (const Error& error) {
      Bad("processor", machine_.cpu + ": " + error.what(),
          "Sepia needs x86-64-v3: AVX2, FMA and F16C");
    }
    Good("products",
         fmt::format("fp32 by {}, bf16 by {}", kernels::LinearBackendName(DType::kFloat32),
                     kernels::LinearBackendName(DType::kBFloat16)));
  }

  void CheckThreads() {
    const int threads = kernels::DefaultNumThreads();
    const char* omp = std::getenv("OMP_NUM_THREADS");
    const std::string text =
        fmt::format("{} thread{}; {} of {} processors usable{}", threads, threads == 1 ? "" : "s",
                    machine_.usable_cpus, machine_.logical_cpus,
                    omp == nullptr ? std::string() : fmt::format("; OMP_NUM_THREADS={}", omp));
    if (threads > machine_.usable_cpus) {
      Note("threads", text + ": more threads than processors; unset OMP_NUM_THREADS");
    } else if (machine_.usable_cpus < machine_.logical_cpus) {
      Note("threads", text +
                          ": bound to some processors; under mpirun use --bind-to none or "
                          "--map-by slot:PE=N");
    } else {
      Good("threads", text);
    }
  }

  void CheckMemory() {
    std::string text = fmt::format("{} RAM, {} available", FormatBytes(machine_.physical_bytes),
                                   FormatBytes(machine_.available_bytes));
    if (machine_.cgroup_bytes > 0) {
      text += fmt::format(", container limit {}", FormatBytes(machine_.cgroup_bytes));
    }
    if (machine_.memory_bytes() > 0 && machine_.memory_bytes() < kLeastMemoryBytes) {
      Bad("memory", text, "at least 1 GiB is needed; raise the limit");
    } else {
      Good("memory", text);
    }
    if (machine_.huge_pages == "never") {
      Note("huge pages",
           "never: products are a few percent slower; as root: echo madvise > "
           "/sys/kernel/mm/transparent_hugepage/enabled");
    } else if (!machine_.huge_pages.empty()) {
      Good("huge pages", machine_.huge_pages);
    }
  }

  void CheckDisk() {
    const int64_t free = trainer::FreeDiskBytes(options_.directory);
    const std::string text = fmt::format("{} free in {}", FormatBytes(free), options_.directory);
    if (access(options_.directory.c_str(), W_OK) != 0) {
      Bad("disk", options_.directory + " cannot be written", "choose another --dir");
    } else if (free >= 0 && free < kLeastDiskBytes) {
      Bad("disk", text, "a checkpoint needs 12 bytes a parameter; make room");
    } else {
      Good("disk", text);
    }
  }

  static void MeasureSpeed() {
    const int threads = kernels::DefaultNumThreads();
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      Good("speed", fmt::format("{} products at {:.0f} GFLOP/s on {} thread{}", DTypeName(dtype),
                                kernels::MeasureGemmPeakGflops(dtype, threads), threads,
                                threads == 1 ? "" : "s"));
    }
  }

  static void NoteLauncher() {
    for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}) {
      const char* size = std::getenv(variable);
      if (size == nullptr || std::string(size) == "1") continue;
      Note("launcher", fmt::format("{}={}, but this build runs one process; start sepia directly",
                                   variable, size));
      return;
    }
    Note("launcher", "this build runs one process with many threads; it is not linked to MPI");
  }

  const DoctorOptions& options_;
  const trainer::MachineFacts machine_;
  int failures_ = 0;
};

}  // namespace

void AddDoctorCommand(CLI::App& app) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* command =
      app.add_subcommand("doctor", "is this machine fit for training, and how fast is it?");
  command->add_option("--dir", options->directory, "where runs will be written")
      ->capture_default_str();
  command->add_flag("--quick", options->quick, "leave out the speed measurement");
  command->footer(
      "Exit code 0: fit; 78: not, with the remedy beside each BAD line.\n"
      "Example:\n  sepia doctor --dir /data/runs");
  command->final_callback([options] { Doctor(*options).Run(); });
}

}  // namespace sepia::tools
