// sepia data: what a run reads, and whether it is sound.
#include "tools/sepia/command.h"
#include "tools/sepia/data_commands.h"

namespace sepia::tools {

void AddDataCommand(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("data", "inspect samples, build index maps, verify datasets");
  command->require_subcommand(1);
  command->footer("Example:\n  sepia data inspect run.textproto --step 0");
  AddDataInspectCommand(*command);
  AddDataMapsCommand(*command);
  AddDataVerifyCommand(*command);
}

}  // namespace sepia::tools
