// Time. Durations come from the monotonic clock only, so a clock jump changes nothing.
#pragma once

#include <string>

namespace sepia {

// Seconds since an arbitrary start; never goes back.
double MonotonicSeconds();

// Seconds since 1970 (for file stamps, never for durations).
double WallSeconds();

// "45s", "12m 03s", "1h 07m", "3d 4h": two units at most, for people.
std::string FormatDuration(double seconds);

// "2026-11-22T01:28:26Z"
std::string FormatUtc(double wall_seconds);

class Timer {
 public:
  Timer() : start_(MonotonicSeconds()) {}
  double Seconds() const { return MonotonicSeconds() - start_; }
  // Seconds so far, then starts again.
  double Lap();

 private:
  double start_;
};

}  // namespace sepia
