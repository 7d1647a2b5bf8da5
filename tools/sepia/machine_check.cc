#include "tools/sepia/machine_check.h"

#include <unistd.h>

#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "kernels/context.h"
#include "kernels/device.h"
#include "kernels/linear.h"
#include "kernels/sep_attention.h"
#include "trainer/log_line.h"
#include "trainer/machine.h"

namespace sepia::tools {
namespace {

using trainer::FormatBytes;
using trainer::MachineFacts;

// Below this not even the smallest Pythia trains with Adam.
constexpr int64_t kLeastMemoryBytes = int64_t{1} << 30;
constexpr int64_t kLeastDiskBytes = int64_t{1} << 30;

Finding Good(const char* what, const std::string& text) { return {Verdict::kGood, what, text}; }
Finding Note(const char* what, const std::string& text) { return {Verdict::kNote, what, text}; }
Finding Bad(const char* what, const std::string& text, const std::string& remedy) {
  return {Verdict::kBad, what, text + "; " + remedy};
}

void CheckProcessor(const MachineFacts& machine, std::vector<Finding>* findings) {
  try {
    // The name of the instruction set throws below the floor.
    const std::string attention = kernels::SepAttentionIsaName(DType::kFloat32);
    findings->push_back(Good("processor", machine.cpu));
    findings->push_back(Good("attention", attention));
  } catch (const Error& error) {
    findings->push_back(Bad("processor", machine.cpu + ": " + error.what(),
                            "Sepia needs x86-64-v3: AVX2, FMA and F16C"));
  }
  findings->push_back(Good(
      "products", fmt::format("fp32 by {}, bf16 by {}", kernels::LinearBackendName(DType::kFloat32),
                              kernels::LinearBackendName(DType::kBFloat16))));
}

// Without a GPU runs on the host go on: that is a note, unless CUDA was asked for.
Finding CheckDevice(bool is_asked_for) {
  try {
    kernels::OpenDevice(Device::kCuda);
    return Good("device", kernels::DeviceName(Device::kCuda));
  } catch (const Error& error) {
    return {is_asked_for ? Verdict::kBad : Verdict::kNote, "device", error.what()};
  }
}

Finding CheckMemory(const MachineFacts& machine) {
  std::string text = fmt::format("{} RAM, {} available", FormatBytes(machine.physical_bytes),
                                 FormatBytes(machine.available_bytes));
  if (machine.cgroup_bytes > 0) {
    text += fmt::format(", container limit {}", FormatBytes(machine.cgroup_bytes));
  }
  if (machine.memory_bytes() > 0 && machine.memory_bytes() < kLeastMemoryBytes) {
    return Bad("memory", text, "at least 1 GiB is needed; raise the limit");
  }
  return Good("memory", text);
}

Finding CheckHugePages(const std::string& setting) {
  if (setting != "never") return Good("huge pages", setting);
  return Note("huge pages",
              "never: products are a few percent slower; as root: echo madvise > "
              "/sys/kernel/mm/transparent_hugepage/enabled");
}

Finding CheckDisk(const std::string& directory) {
  const int64_t free = trainer::FreeDiskBytes(directory);
  const std::string text = fmt::format("{} free in {}", FormatBytes(free), directory);
  if (access(directory.c_str(), W_OK) != 0) {
    return Bad("disk", directory + " cannot be written", "choose another --dir");
  }
  if (free >= 0 && free < kLeastDiskBytes) {
    return Bad("disk", text, "a checkpoint needs 12 bytes a parameter; make room");
  }
  return Good("disk", text);
}

}  // namespace

std::vector<Finding> CheckMachine(const std::string& directory, Device device) {
  const MachineFacts machine = trainer::ReadMachine();
  std::vector<Finding> findings;
  CheckProcessor(machine, &findings);
  const bool wants_cuda = device == Device::kCuda;
  if (wants_cuda || kernels::HasBackend(Device::kCuda)) findings.push_back(CheckDevice(wants_cuda));
  findings.push_back(CheckMemory(machine));
  if (!machine.huge_pages.empty()) findings.push_back(CheckHugePages(machine.huge_pages));
  findings.push_back(CheckDisk(directory));
  return findings;
}

Finding CheckThreads() {
  const MachineFacts machine = trainer::ReadMachine();
  const int threads = kernels::DefaultNumThreads();
  const char* omp = std::getenv("OMP_NUM_THREADS");
  const std::string text =
      fmt::format("{} thread{}; {} of {} processors usable{}", threads, threads == 1 ? "" : "s",
                  machine.usable_cpus, machine.logical_cpus,
                  omp == nullptr ? std::string() : fmt::format("; OMP_NUM_THREADS={}", omp));
  if (threads > machine.usable_cpus) {
    return Note("threads", text + ": more threads than processors; unset OMP_NUM_THREADS");
  }
  if (machine.usable_cpus < machine.logical_cpus) {
    return Note("threads", text +
                               ": bound to some processors; under mpirun use --bind-to none or "
                               "--map-by slot:PE=N");
  }
  return Good("threads", text);
}

std::string FormatFinding(const Finding& finding) {
  const char* verdict = finding.verdict == Verdict::kGood   ? "ok"
                        : finding.verdict == Verdict::kNote ? "note"
                                                            : "BAD";
  return fmt::format("{:<6}{:<12}{}", verdict, finding.what, finding.text);
}

std::string Encode(const std::vector<Finding>& findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& f : findings) {
    list.push_back({static_cast<int>(f.verdict), f.what, f.text});
  }
  return list.dump();
}

std::vector<Finding> DecodeFindings(const std::string& text) {
  std::vector<Finding> findings;
  for (const nlohmann::json& f : nlohmann::json::parse(text)) {
    findings.push_back({static_cast<Verdict>(f[0].get<int>()), f[1], f[2]});
  }
  return findings;
}

}  // namespace sepia::tools
