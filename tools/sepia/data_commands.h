// The subcommands of `sepia data`, one file each.
#pragma once

#include <CLI/CLI.hpp>

namespace sepia::tools {

void AddDataInspectCommand(CLI::App& data);
void AddDataMapsCommand(CLI::App& data);
void AddDataVerifyCommand(CLI::App& data);

}  // namespace sepia::tools
