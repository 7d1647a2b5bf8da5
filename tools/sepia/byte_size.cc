#include "tools/sepia/byte_size.h"

#include <cstdlib>
#include <utility>

namespace sepia::tools {
namespace {

constexpr double kMostBytes = 0x1p60;

constexpr std::pair<const char*, double> kUnits[] = {
    {"B", 1},        {"K", 0x1p10},   {"KiB", 0x1p10}, {"KB", 1e3},     {"M", 0x1p20},
    {"MiB", 0x1p20}, {"MB", 1e6},     {"G", 0x1p30},   {"GiB", 0x1p30}, {"GB", 1e9},
    {"T", 0x1p40},   {"TiB", 0x1p40}, {"TB", 1e12}};

}  // namespace

std::optional<int64_t> ParseByteSize(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (end == text.c_str()) return std::nullopt;
  while (*end == ' ') ++end;
  const std::string unit = end;
  for (const auto& [name, factor] : kUnits) {
    if (unit != name) continue;
    const double bytes = number * factor;
    if (!(bytes >= 1 && bytes <= kMostBytes)) return std::nullopt;
    return static_cast<int64_t>(bytes);
  }
  return std::nullopt;
}

}  // namespace sepia::tools
