// Messages for people, on stderr, through spdlog. Metrics are not logged here: see
// trainer/metrics.h.
//
//   LogInfo("resuming from {}", path);
//
// Thread-safe. Of several ranks only the first prints INFO, every one WARN and above.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include <fmt/core.h>

namespace sepia {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

void LogMessage(LogLevel level, std::string_view message);

template <typename... Args>
void LogDebug(fmt::format_string<Args...> format, Args&&... args) {
  LogMessage(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void LogInfo(fmt::format_string<Args...> format, Args&&... args) {
  LogMessage(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void LogWarn(fmt::format_string<Args...> format, Args&&... args) {
  LogMessage(LogLevel::kWarn, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void LogError(fmt::format_string<Args...> format, Args&&... args) {
  LogMessage(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

// Only messages at or above `level` are printed.
void SetLogLevel(LogLevel level);
// The same for the terminal alone: log files get all.
void SetConsoleLogLevel(LogLevel level);

// Put before every message, e.g. "[dp0 tp1] "; empty in a single process.
void SetLogPrefix(const std::string& prefix);

// Also appends every message, with a time stamp, to `path`. Throws UserError(kCannotWrite).
void AddLogFile(const std::string& path);

// Replaces stderr: tests use it to see, or forbid, warnings. Null restores stderr.
using LogSink = std::function<void(LogLevel, std::string_view)>;
void SetLogSink(LogSink sink);

}  // namespace sepia
