// The one binary. Subcommands live in files of their own; this file parses, runs one, and is the
// only place that catches.
#include <csignal>
#include <exception>

#include "base/error.h"
#include "base/log.h"
#include "dist/agreement.h"
#include "tools/sepia/command.h"
#include "tools/sepia/openmp_settings.h"
#include "tools/sepia/usage_error.h"

namespace {

using AddCommand = void (*)(CLI::App&);

constexpr AddCommand kCommands[] = {
    // One line a subcommand, in the order of --help.
    sepia::tools::AddTrainCommand,
    sepia::tools::AddCheckCommand,
    sepia::tools::AddPlanCommand,
    sepia::tools::AddExplainConfigCommand,
    sepia::tools::AddReportCommand,
    sepia::tools::AddDoctorCommand,
    sepia::tools::AddTokenizerCommand,
    sepia::tools::AddTokenizeCommand,
    sepia::tools::AddDataCommand,
    sepia::tools::AddProbeCommand,
    sepia::tools::AddGenerateCommand,
    sepia::tools::AddEvalCommand,
    sepia::tools::AddConvertCommand,
    sepia::tools::AddConvertConfigCommand,
    sepia::tools::AddCheckpointCommand,
    sepia::tools::AddBenchCommand,
};

int Run(int argc, char** argv) {
  CLI::App app{"Sepia: a trainer for Pythia models with separator-sparse attention"};
  app.require_subcommand(1);
  app.footer(
      "sepia COMMAND --help shows the options of a command and examples.\n"
      "Examples:\n"
      "  sepia check configs/pythia-160m.textproto\n"
      "  sepia train configs/pythia-160m.textproto --run-dir runs/160m\n"
      "  sepia generate --model runs/160m --prompt \"In the beginning\"");
  for (const AddCommand add : kCommands) add(app);
  try {
    app.parse(argc, argv);
    return static_cast<int>(sepia::ExitCode::kDone);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    throw sepia::UserError(sepia::tools::DescribeUsageError(app, {argv + 1, argv + argc}, error));
  }
}

}  // namespace

int main(int argc, char** argv) {
  sepia::tools::UnbindMainThread();
  sepia::tools::ShareProcessorsAmongRanks();
  sepia::tools::LimitOpenMpSpinning(argv);
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of write(), as a full disk is
  try {
    return Run(argc, argv);
  } catch (const sepia::dist::AgreedError& error) {
    return static_cast<int>(error.code());  // rank 0 has said why
  } catch (const sepia::Error& error) {
    // A stop on request is no error.
    const bool stopped = error.code() == sepia::ExitCode::kStopped;
    sepia::LogMessage(stopped ? sepia::LogLevel::kInfo : sepia::LogLevel::kError, error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    sepia::LogError("internal error: {}; this is a bug in Sepia, please report it", error.what());
    return static_cast<int>(sepia::ExitCode::kInternal);
  }
}
