#include "trainer/duration.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace sepia::trainer {
namespace {

double UnitSeconds(char unit) {
  switch (unit) {
    case 's': return 1;
    case 'm': return 60;
    case 'h': return 3600;
    case 'd': return 86400;
    default: return 0;
  }
}

}  // namespace

double ParseDuration(std::string_view text) {
  double seconds = 0;
  const char* at = text.data();
  const char* const end = at + text.size();
  bool valid = at != end;
  while (valid && at != end) {
    double value = 0;
    const auto [next, error] = std::from_chars(at, end, value, std::chars_format::fixed);
    const bool only_number = next == end && at == text.data();
    const double unit = only_number ? 1 : next == end ? 0 : UnitSeconds(*next);
    valid = error == std::errc() && unit > 0 && value >= 0;
    seconds += value * unit;
    at = only_number ? end : next + (next != end);
  }
  if (!valid || !std::isfinite(seconds) || seconds <= 0) {
    throw UserError(fmt::format("\"{}\" is not a duration; write 90s, 45m, 3h30m or 1d", text));
  }
  return seconds;
}

}  // namespace sepia::trainer
