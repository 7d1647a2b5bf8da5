// A small run and the fault lines of a config: what the config tests share.
#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "trainer/config.h"

namespace sepia::trainer {

inline constexpr char kRun[] =
    "model { preset: \"pythia-160m\" }\n"
    "data { train { prefix: \"d\" } valid { prefix: \"d\" } }\n"
    "run_dir: \"r\"\n";

// The fault lines of a config, "" when it loads.
inline std::string Faults(const std::string& text, const std::vector<std::string>& overrides = {},
                          const LoadOptions& options = {}) {
  try {
    LoadConfigText(text, "c", overrides, options);
    return "";
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    return error.what();
  }
}

}  // namespace sepia::trainer
