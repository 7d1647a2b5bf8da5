#include "base/log.h"

#include <cerrno>
#include <memory>
#include <mutex>
#include <utility>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "base/error.h"

namespace sepia {
namespace {

struct LogState {
  std::mutex mutex;
  std::string prefix;
  LogSink sink;
  std::shared_ptr<spdlog::logger> logger;

  LogState() {
    auto console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    console->set_pattern("%v");
    logger = std::make_shared<spdlog::logger>("sepia", console);
    logger->flush_on(spdlog::level::info);
  }
};

LogState& State() {
  static LogState state;
  return state;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarn: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string_view LevelTag(LogLevel level) {
  if (level == LogLevel::kWarn) return "warning: ";
  if (level == LogLevel::kError) return "error: ";
  return "";
}

}  // namespace

void LogMessage(LogLevel level, std::string_view message) {
  LogState& state = State();
  const std::lock_guard lock(state.mutex);
  if (state.sink) {
    state.sink(level, message);
    return;
  }
  state.logger->log(ToSpdlog(level), "{}{}{}", state.prefix, LevelTag(level), message);
}

void SetLogLevel(LogLevel level) { State().logger->set_level(ToSpdlog(level)); }

void SetConsoleLogLevel(LogLevel level) {
  State().logger->sinks().front()->set_level(ToSpdlog(level));
}

void SetLogPrefix(const std::string& prefix) {
  const std::lock_guard lock(State().mutex);
  State().prefix = prefix;
}

void AddLogFile(const std::string& path) {
  try {
    auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    file->set_pattern("%Y-%m-%dT%H:%M:%S.%e %v");
    const std::lock_guard lock(State().mutex);
    State().logger->sinks().push_back(std::move(file));
  } catch (const spdlog::spdlog_ex& error) {
    throw UserError(ExitCode::kCannotWrite,
                    fmt::format("{}: cannot write the log: {}", path, error.what()));
  }
}

void SetLogSink(LogSink sink) {
  const std::lock_guard lock(State().mutex);
  State().sink = std::move(sink);
}

}  // namespace sepia
