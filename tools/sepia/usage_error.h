// What is wrong with a command line, in words.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace sepia::tools {

// CLI11 reports a missing option before a mistyped one. This looks for words that nobody knows
// first, and suggests near ones. `args` as main() has them, without the program's name.
std::string DescribeUsageError(const CLI::App& app, const std::vector<std::string>& args,
                               const CLI::ParseError& error);

}  // namespace sepia::tools
