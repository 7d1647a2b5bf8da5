// sepia train: a training run from a config; the same command again resumes it.
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/sha256.h"
#include "dist/agreement.h"
#include "dist/device_world.h"
#include "dist/mesh.h"
#include "dist/watchdog.h"
#include "tools/sepia/command.h"
#include "tools/sepia/ranks.h"
#include "tools/sepia/set_option.h"
#include "trainer/config.h"
#include "trainer/duration.h"
#include "trainer/handshake.h"
#include "trainer/log_line.h"
#include "trainer/memory_plan.h"
#include "trainer/signals.h"
#include "trainer/trainer.h"
#include "trainer/training_data.h"

namespace sepia::tools {
namespace {

struct TrainCommand {
  std::string config;
  std::vector<std::string> overrides;
  std::string run_dir;
  std::string max_wall_time;
  bool dry_run = false;
  trainer::TrainOptions options;
};

// Everything that a run does together before its first step, without a run directory.
void DryRun(const trainer::LoadedConfig& config, dist::Mesh& mesh) {
  const trainer::TrainSettings& settings = config.settings;
  dist::Communicator& world = mesh.world();
  const data::Datasets datasets =
      dist::Agreed(world, [&] { return trainer::OpenDatasets(config, ""); });
  dist::RequireSame(world, {.what = "the training data",
                            .value = datasets.train->Fingerprint(),
                            .remedy = "give every node the same files"});
  trainer::CompareRanks(world, settings);
  const std::vector<std::string> groups = trainer::TryGroups(mesh);
  if (world.rank() != 0) return;
  LogInfo("{} ranks agree on program, config, parameter table and training data", world.size());
  for (const std::string& group : groups) LogInfo("{}", group);
  LogInfo("memory of one rank:");
  for (const auto& [name, bytes] : trainer::PlanMemory(settings, mesh.data().size()).rows()) {
    LogInfo("  {:<12}{:>10}", name, trainer::FormatBytes(bytes));
  }
  LogInfo("dry run: nothing was trained, no run directory made");
}

// Collective.
ExitCode TrainOnRanks(const TrainCommand& command, const trainer::StopSignals& signals,
                      std::unique_ptr<dist::Communicator> world) {
  dist::Watchdog watchdog(*world);
  trainer::LoadedConfig config = dist::Agreed(*world, [&] {
    trainer::LoadedConfig loaded =
        trainer::LoadConfig(command.config, command.overrides, {.ranks = world->size()});
    return loaded;
  });
  dist::RequireSame(*world, {.what = "the resolved config (its SHA-256)",
                             .value = Sha256Hex(config.resolved_text),
                             .remedy = "give every rank the same file and options"});
  if (world->rank() == 0) {
    for (const std::string& warning : config.warnings) LogWarn("{}", warning);
  }
  if (trainer::AnyRankWasAsked(signals, *world)) {
    if (world->rank() == 0) LogInfo("stopped while starting up: nothing was trained");
    watchdog.ExpectTheEnd();
    return ExitCode::kStopped;
  }
  world = dist::OpenDeviceWorld(std::move(world), config.settings.device);
  dist::Mesh mesh(std::move(world), config.settings.parallel.tensor);
  trainer::RequireMemoryOfRanks(mesh, config.settings);
  if (command.dry_run) {
    DryRun(config, mesh);
    watchdog.ExpectTheEnd();
    return ExitCode::kDone;
  }
  trainer::Trainer trainer(std::move(config), command.options, signals, mesh, watchdog);
  return trainer.Run();
}

void RunTrain(TrainCommand command) {
  if (!command.run_dir.empty()) {
    command.overrides.push_back("run_dir=" + command.run_dir);
  }
  if (!command.max_wall_time.empty()) {
    command.options.max_wall_seconds = trainer::ParseDuration(command.max_wall_time);
  }
  const trainer::StopSignals signals;  // before MPI: whatever takes its time here can be stopped
  const ExitCode code = TrainOnRanks(command, signals, JoinWorld());
  if (code != ExitCode::kDone) throw Error(code, "stopped on request; the same command resumes");
}

}  // namespace

void AddTrainCommand(CLI::App& app) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command = app.add_subcommand("train", "train a model; the same command again resumes");
  command
      ->add_option("config", options->config,
                   "run description (proto2 text; `sepia check` reads it too)")
      ->required();
  AddSetOption(*command, &options->overrides);
  command->add_option("--run-dir", options->run_dir, "directory of the run (overrides run_dir)");
  command
      ->add_option("--steps", options->options.last_step,
                   "stop after step N and save; schedule and total_steps stay as they are")
      ->check(CLI::NonNegativeNumber);
  trainer::CheckpointingOptions& checkpointing = options->options.checkpointing;
  command->add_flag("--fresh", checkpointing.fresh,
                    "start at step 0; refuses a directory that already holds a checkpoint");
  command
      ->add_option("--override", checkpointing.overrides,
                   "a config field, or a message of fields, in which a resumed run may differ "
                   "from its checkpoint: model.attention.window, data; may be repeated")
      ->allow_extra_args(false);
  command->add_flag(
      "--fallback-to-older", checkpointing.fallback_to_older,
      "resume from an older checkpoint when the newest is damaged, which is set aside");
  command->add_flag("--verify-after-save", checkpointing.verify_after_save,
                    "read every checkpoint back from the disk before it counts");
  command->add_flag("--dry-run", options->dry_run,
                    "compare the ranks, try every group once, print the memory of a rank; no "
                    "training, no run directory");
  command->add_option("--max-wall-time", options->max_wall_time,
                      "save and stop (exit code 75) before this much time has passed: 90s, 45m, "
                      "3h30m, 1d");
  command->footer(
      "SIGUSR1, SIGTERM and Ctrl-C finish the step, save and exit with 75; a second one stops at\n"
      "once. Exit codes: docs/exit-codes.md.\n\n"
      "Examples:\n"
      "  sepia train configs/pythia-160m.textproto --run-dir runs/160m\n"
      "  sepia train run.textproto --set batch.micro=4 --set precision=BF16\n"
      "  sepia train run.textproto --steps 100            # the first 100 steps of a longer run\n"
      "  sepia train run.textproto --max-wall-time 3h45m  # inside a 4-hour job\n"
      "  mpirun -n 8 --hostfile hosts sepia train run.textproto --set parallel.tensor=2");
  command->final_callback([options] { RunTrain(*options); });
}

}  // namespace sepia::tools
