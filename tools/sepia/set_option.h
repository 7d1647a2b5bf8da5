// --set path=value, the same in every command that reads a config.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace sepia::tools {

// Repeatable; each --set takes one argument, so that a positional one may follow. `more` ends the
// help text.
void AddSetOption(CLI::App& command, std::vector<std::string>* overrides,
                  const std::string& more = "e.g. --set optimizer.lr=3e-4");

}  // namespace sepia::tools
