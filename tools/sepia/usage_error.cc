#include "tools/sepia/usage_error.h"

#include <regex>

#include <fmt/ranges.h>

#include "base/suggest.h"

namespace sepia::tools {
namespace {

std::vector<std::string> CommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

const CLI::App* FindCommand(const CLI::App& group, const std::string& name) {
  const auto named = [&](const CLI::App* command) { return command->get_name() == name; };
  const std::vector<const CLI::App*> found = group.get_subcommands(named);
  return found.empty() ? nullptr : found.front();
}

std::vector<std::string> OptionNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string UnknownOption(const CLI::App& command, const std::string& name) {
  return fmt::format("unknown option {}{}", name, DidYouMean(name, OptionNames(command)));
}

std::string UnknownCommand(const CLI::App& group, const std::string& name) {
  const std::vector<std::string> names = CommandNames(group);
  return fmt::format("unknown command \"{}\"{}; the commands are {}", name, DidYouMean(name, names),
                     fmt::join(names, ", "));
}

// CLI11 writes a bound that is none as a number of 300 digits.
std::string WithoutHugeBounds(const std::string& message) {
  static const std::regex range(R"(Value (\S+) not in range \S+ to \d{300,}\S*)");
  return std::regex_replace(message, range, "$1 is too small");
}

}  // namespace

std::string DescribeUsageError(const CLI::App& app, const std::vector<std::string>& args,
                               const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string path = "sepia";
  std::string fault;
  for (size_t i = 0; i < args.size() && fault.empty(); ++i) {
    const std::string& word = args[i];
    if (word == "--") break;
    if (word.size() > 1 && word[0] == '-') {
      const size_t equals = word.find('=');
      const std::string name = word.substr(0, equals);
      const CLI::Option* option = command->get_option_no_throw(name);
      if (option == nullptr) {
        fault = UnknownOption(*command, name);
      } else if (equals == std::string::npos && option->get_items_expected_max() > 0) {
        ++i;  // its value
      }
    } else if (!CommandNames(*command).empty()) {
      const CLI::App* next = FindCommand(*command, word);
      if (next == nullptr) {
        fault = UnknownCommand(*command, word);
      } else {
        command = next;
        path += " " + word;
      }
    }
  }
  if (fault.empty() && !CommandNames(*command).empty()) {
    fault = fmt::format("{} needs a command: {}", path, fmt::join(CommandNames(*command), ", "));
  }
  if (fault.empty()) fault = WithoutHugeBounds(error.what());
  return fmt::format("{}; see {} --help", fault, path);
}

}  // namespace sepia::tools
