// Reference data computed by other people's software: ../shared beside the checkout. Present on the
// developers' and CI machines; with CI=true its absence is a failure, in a user's clone the tests
// that need it are skipped, with their reason, and counted.
#pragma once

#include <string>

#include <gtest/gtest.h>

namespace sepia::testing {

// "<repository>/../shared/<path>"; empty when absent.
std::string SharedPath(const std::string& path);

// "<repository>/tests/golden/<path>": small committed numbers, always there.
std::string GoldenPath(const std::string& path);

// "<repository>"
std::string SourcePath(const std::string& path);

// True with CI=true: absence must fail.
bool SharedIsRequired();

}  // namespace sepia::testing

// First line of a test that reads ../shared/<path> into `variable`.
#define SEPIA_SHARED_OR_SKIP(variable, path)                                               \
  const std::string variable = ::sepia::testing::SharedPath(path);                         \
  if (variable.empty()) {                                                                  \
    if (::sepia::testing::SharedIsRequired()) FAIL() << "../shared/" << path << " is missing"; \
    GTEST_SKIP() << "../shared/" << path << " is not beside this checkout";                \
  }                                                                                        \
  static_assert(true, "")
