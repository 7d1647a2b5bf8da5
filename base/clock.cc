#include "base/clock.h"

#include <chrono>
#include <cmath>
#include <ctime>

#include <fmt/core.h>

namespace sepia {

double MonotonicSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string FormatDuration(double seconds) {
  if (!std::isfinite(seconds)) return "unknown";
  const auto total = static_cast<long long>(std::llround(seconds < 0 ? 0 : seconds));
  if (total < 60) return fmt::format("{}s", total);
  if (total < 3600) return fmt::format("{}m {:02}s", total / 60, total % 60);
  if (total < 86400) return fmt::format("{}h {:02}m", total / 3600, total % 3600 / 60);
  return fmt::format("{}d {}h", total / 86400, total % 86400 / 3600);
}

std::string FormatUtc(double wall_seconds) {
  const auto time = static_cast<std::time_t>(wall_seconds);
  std::tm utc{};
  gmtime_r(&time, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

double Timer::Lap() {
  const double now = MonotonicSeconds();
  const double elapsed = now - start_;
  start_ = now;
  return elapsed;
}

}  // namespace sepia
