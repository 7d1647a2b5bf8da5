// Durations as people write them on a command line.
#pragma once

#include <string>
#include <string_view>

namespace sepia::trainer {

// Seconds of "90", "90s", "45m", "3h30m", "1d12h", "1.5h". Throws UserError(kUsage) otherwise and
// for anything that is not positive.
double ParseDuration(std::string_view text);

}  // namespace sepia::trainer
