// Options whose values are one or some of a few words.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace sepia::tools {

// `value` keeps what it has until the option is given; case does not matter. CLI11's own
// CheckedTransformer shows enum values as raw bytes in help and errors.
template <typename T>
CLI::Option* AddChoiceOption(CLI::App& command, const std::string& name, T& value,
                             const std::map<std::string, T>& choices, const std::string& help) {
  std::vector<std::string> words;
  for (const auto& [word, meaning] : choices) words.push_back(word);
  const auto set = [&value, choices](const std::string& word) { value = choices.at(word); };
  return command.add_option_function<std::string>(name, set, help)
      ->transform(CLI::IsMember(words, CLI::ignore_case));
}

// The same for a list: words apart by commas, in the order given.
template <typename T>
CLI::Option* AddChoicesOption(CLI::App& command, const std::string& name, std::vector<T>& values,
                              const std::map<std::string, T>& choices, const std::string& help) {
  std::vector<std::string> words;
  for (const auto& [word, meaning] : choices) words.push_back(word);
  const auto set = [&values, choices](const std::vector<std::string>& given) {
    values.clear();
    for (const std::string& word : given) values.push_back(choices.at(word));
  };
  return command.add_option_function<std::vector<std::string>>(name, set, help)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->transform(CLI::IsMember(words, CLI::ignore_case));
}

}  // namespace sepia::tools
