// Sizes as people write them on the command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sepia::tools {

// "80GiB", "1.5 GB", "64K", "4096B": bytes. K, M, G and T alone are binary. Nothing for anything
// else, for a number without unit, less than a byte, or more than 2^60.
std::optional<int64_t> ParseByteSize(const std::string& text);

}  // namespace sepia::tools
