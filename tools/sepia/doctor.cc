// sepia doctor: is this machine, or are these machines together, fit for training, and how fast?
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "base/error.h"
#include "dist/agreement.h"
#include "dist/gather.h"
#include "dist/launcher.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "tools/sepia/command.h"
#include "tools/sepia/machine_check.h"
#include "tools/sepia/rank_check.h"
#include "tools/sepia/ranks.h"

namespace sepia::tools {
namespace {

struct DoctorOptions {
  std::string directory = ".";
  int tensor = 1;
  bool quick = false;
  std::string device = "CPU";
};

// Collective. Rank 0 prints.
class Doctor {
 public:
  Doctor(const DoctorOptions& options, std::unique_ptr<dist::Communicator> world)
      : options_(options), mesh_(std::move(world), options.tensor) {}

  void Run() {
    const int threads = kernels::DefaultNumThreads();
    const bool alone = world().size() == 1;
    CheckMachines();
    Report(alone ? std::vector{CheckThreads()} : CheckPlacement(world(), threads));
    if (!options_.quick) {
      Report(CheckSpeed(world(), threads));
      if (!alone) Report(CheckLinks(mesh_));
    }
    if (alone) Report({NoteOneProcess()});
    dist::Agree(world(), [&] { Conclude(); });
  }

 private:
  dist::Communicator& world() { return mesh_.world(); }

  // The first rank of each node speaks for it: all lines of the first node, faults of the others.
  void CheckMachines() {
    const std::vector<std::string> nodes =
        dist::GatherTexts(world(), dist::NodeName(), "doctor.nodes");
    const auto own = static_cast<size_t>(world().rank());
    const auto first = std::find(nodes.begin(), nodes.end(), nodes[own]) - nodes.begin();
    const bool speaks = static_cast<size_t>(first) == own;
    const Device device = options_.device == "CUDA" ? Device::kCuda : Device::kCpu;
    const std::vector<std::string> texts = dist::GatherTexts(
        world(), Encode(speaks ? CheckMachine(options_.directory, device) : std::vector<Finding>()),
        "doctor.machines");
    for (size_t r = 0; r < texts.size(); ++r) {
      for (Finding finding : DecodeFindings(texts[r])) {
        if (r > 0) {
          if (finding.verdict == Verdict::kGood) continue;
          finding.text = nodes[r] + ": " + finding.text;
        }
        Report({finding});
      }
    }
  }

  void Report(const std::vector<Finding>& findings) {
    for (const Finding& finding : findings) {
      if (world().rank() == 0) std::cout << FormatFinding(finding) << std::endl;
      failures_ += finding.verdict == Verdict::kBad;
    }
  }

  static Finding NoteOneProcess() {
    const std::string mpi = dist::MpiLibraryVersion();
    if (mpi.empty()) return {Verdict::kNote, "MPI", "none: this build runs one process"};
    return {
        Verdict::kGood, "MPI",
        mpi.substr(0, mpi.find(',')) + "; for the links between ranks: mpirun -n N sepia doctor"};
  }

  void Conclude() const {
    if (failures_ == 0) return;
    throw UserError(ExitCode::kEnvironment,
                    fmt::format("{} problem{} with this environment (BAD above)", failures_,
                                failures_ == 1 ? "" : "s"));
  }

  const DoctorOptions& options_;
  dist::Mesh mesh_;
  int failures_ = 0;
};

}  // namespace

void AddDoctorCommand(CLI::App& app) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* command = app.add_subcommand(
      "doctor",
      "is this machine fit for training, and how fast is it? under mpirun: are all, and "
      "their links?");
  command->add_option("--dir", options->directory, "where runs will be written")
      ->capture_default_str();
  command->add_option("--tensor", options->tensor, "under mpirun: size of a tensor group")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--device", options->device, "the device that runs will ask for: CPU or CUDA")
      ->check(CLI::IsMember({"CPU", "CUDA"}))
      ->capture_default_str();
  command->add_flag("--quick", options->quick, "leave out the measurements of speed");
  command->footer(
      "Exit code 0: fit; 78: not, with the remedy beside each BAD line. A note costs speed only.\n"
      "Example:\n"
      "  sepia doctor --dir /data/runs\n"
      "  mpirun -n 8 --hostfile hosts sepia doctor --tensor 2");
  command->final_callback([options] { Doctor(*options, JoinWorld()).Run(); });
}

}  // namespace sepia::tools
