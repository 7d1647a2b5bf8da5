#include "tools/sepia/set_option.h"

namespace sepia::tools {

void AddSetOption(CLI::App& command, std::vector<std::string>* overrides, const std::string& more) {
  command
      .add_option("--set", *overrides,
                  "path=value: overrides one field of the config; repeatable; " + more)
      ->allow_extra_args(false);
}

}  // namespace sepia::tools
