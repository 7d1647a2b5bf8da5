#include "dist/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "dist/backtraces.h"
#include "dist/gather.h"
#include "dist/hang_report.h"
#include "dist/launcher.h"

namespace sepia::dist {
namespace {

// Looks at the clock and at the alarm.
constexpr double kShortestTick = 0.05, kLongestTick = 0.5;
// A rank that has waited this long asks whether the others' processes still exist.
constexpr double kSuspicion = 0.3;
// For the other ranks' reports: a network file system shows a new file late, and a rank whose
// report is late on a busy machine must not pass for a silent one.
constexpr double kShortestGrace = 3, kLongestGrace = 30;
constexpr double kBacktraceSeconds = 0.5;

void Sleep(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

std::string ReportPath(const std::string& directory, int rank) {
  return fmt::format("{}/rank_{}.json", directory, rank);
}

std::string VerdictPath(const std::string& directory) { return directory + "/verdict.txt"; }

bool IsAlive(int process) {
  std::ifstream stat(fmt::format("/proc/{}/stat", process));
  std::string text;
  std::getline(stat, text);
  // "pid (name) state ...": a zombie is dead, only its parent has not looked yet.
  const size_t end = text.rfind(") ");
  return end != std::string::npos && text[end + 2] != 'Z' && text[end + 2] != 'X';
}

[[noreturn]] void Leave() { std::_Exit(static_cast<int>(ExitCode::kHang)); }

// Whatever blocks the alarm itself (a file system, a lock), the process ends.
void LeaveAfter(double seconds) {
  std::thread([seconds] {
    Sleep(seconds);
    Leave();
  }).detach();
}

void Try(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    LogError("watchdog: {}", error.what());
  }
}

std::vector<std::optional<HangReport>> ReadReports(const std::string& directory, size_t ranks) {
  std::vector<std::optional<HangReport>> reports(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    const std::string path = ReportPath(directory, static_cast<int>(r));
    if (FileExists(path)) reports[r] = ParseHangReport(ReadFile(path));
  }
  return reports;
}

}  // namespace

Watchdog::Watchdog(Communicator& world, const WatchdogOptions& options)
    : recorder_(world.recorder()), rank_(world.rank()), options_(options) {
  std::set<int> processes;
  for (const std::string& text :
       GatherTexts(world, fmt::format("{} {}", getpid(), NodeName()), "processes")) {
    const size_t space = text.find(' ');
    peers_.push_back({text.substr(space + 1), std::stoi(text.substr(0, space))});
    nodes_.push_back(peers_.back().node);
    processes.insert(peers_.back().process);
  }
  // Ranks that are threads cannot leave one by one.
  const bool threads = processes.size() == 1;
  if (recorder_ == nullptr || world.size() == 1 || threads) return;
  PrepareBacktraces();
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "watchdog");
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  closing_.notify_all();
  thread_.join();
}

void Watchdog::Protect(const WatchdogOptions& options) {
  const std::lock_guard lock(mutex_);
  options_ = options;
}

void Watchdog::ExpectTheEnd() {
  if (recorder_ != nullptr) recorder_->ExpectTheEnd();
}

void Watchdog::Run() {
  uint64_t seen = recorder_->progress();
  double stalled = 0;
  Timer since_last_look;
  std::unique_lock lock(mutex_);
  while (!closed_) {
    const double limit = options_.limit_seconds;
    const double tick =
        limit > 0 ? std::clamp(limit / 20, kShortestTick, kLongestTick) : kLongestTick;
    closing_.wait_for(lock, std::chrono::duration<double>(tick));
    // A process that was stopped, or a machine that slept, has seen one look pass, not an hour.
    stalled += std::min(since_last_look.Lap(), 2 * tick);
    const uint64_t now = recorder_->progress();
    if (now != seen) stalled = 0;
    seen = now;
    if (closed_) return;
    const WatchdogOptions options = options_;
    lock.unlock();
    if (!options.directory.empty() && FileExists(options.directory)) {
      Alarm("another rank has raised the alarm", stalled, options);
    }
    if (stalled > kSuspicion) {
      // In this order: who ends as expected does so only when this rank expects it too.
      const int dead = DeadPeer();
      if (dead >= 0 && !recorder_->ending()) LeaveBecauseOf(dead);
    }
    if (limit > 0 && stalled > limit) {
      Alarm(fmt::format("no progress for {:.1f} s", stalled), stalled, options);
    }
    lock.lock();
  }
}

// A rank of this node whose process is gone, or -1.
int Watchdog::DeadPeer() const {
  for (size_t r = 0; r < peers_.size(); ++r) {
    if (static_cast<int>(r) == rank_ || nodes_[r] != nodes_[static_cast<size_t>(rank_)]) continue;
    if (!IsAlive(peers_[r].process)) return static_cast<int>(r);
  }
  return -1;
}

bool Watchdog::FirstOfNodeBut(int dead_peer) const {
  for (int r = 0; r < rank_; ++r) {
    const auto i = static_cast<size_t>(r);
    const bool here = nodes_[i] == nodes_[static_cast<size_t>(rank_)];
    if (here && r != dead_peer && IsAlive(peers_[i].process)) return false;
  }
  return true;
}

void Watchdog::LeaveBecauseOf(int dead_peer) const {
  LeaveAfter(kLongestTick * 4);
  const FlightRecorder::Record record = recorder_->Read();
  std::string waits;
  for (const Collective& c : record.collectives) {
    if (c.state == Collective::State::kDone) continue;
    waits = fmt::format(", waiting in {} \"{}\" of group {}", c.operation.view(), c.label.view(),
                        c.group.view());
    break;
  }
  const auto peer = static_cast<size_t>(dead_peer);
  const std::string message = fmt::format(
      "rank {} (on {}, process {}) has ended without a word; rank {} was in phase \"{}\" of step "
      "{}{}; the same command resumes from the last checkpoint",
      dead_peer, peers_[peer].node, peers_[peer].process, rank_, record.phase.view(), record.step,
      waits);
  LogMessage(FirstOfNodeBut(dead_peer) ? LogLevel::kError : LogLevel::kInfo, message);
  Leave();
}

void Watchdog::Alarm(const std::string& reason, double stalled,
                     const WatchdogOptions& options) const {
  const double grace = std::clamp(options.limit_seconds / 10, kShortestGrace, kLongestGrace);
  LeaveAfter(3 * grace + 5);
  HangReport report{.rank = rank_,
                    .node = nodes_[static_cast<size_t>(rank_)],
                    .process = getpid(),
                    .reason = reason,
                    .now = MonotonicSeconds(),
                    .stalled = stalled,
                    .record = recorder_->Read(),
                    .threads = {}};
  if (options.directory.empty()) {
    LogError("{}: in phase \"{}\" of step {}; ending with 71", reason, report.record.phase.view(),
             report.record.step);
    Leave();
  }
  const std::string path = ReportPath(options.directory, rank_);
  const std::string verdict_path = VerdictPath(options.directory);
  // A rank that was stopped, and goes on because the launcher ends it, has nothing to add.
  if (FileExists(verdict_path)) Leave();
  Try([&] {
    CreateDirectories(options.directory);
    WriteFileAtomic(path, ToJson(report));
    // Looking at other threads is the risky part: only now.
    report.threads = TraceThreads(kBacktraceSeconds);
    WriteFileAtomic(path, ToJson(report));
  });
  LogInfo("{}: report in {}", reason, path);

  const Timer timer;
  std::vector<std::optional<HangReport>> reports;
  const auto complete = [&] {
    Try([&] { reports = ReadReports(options.directory, peers_.size()); });
    return std::all_of(reports.begin(), reports.end(), [](const auto& r) { return r.has_value(); });
  };
  while (!complete() && timer.Seconds() < grace) Sleep(kShortestTick);
  const auto first =
      std::find_if(reports.begin(), reports.end(), [](const auto& r) { return r.has_value(); });
  if (first - reports.begin() == rank_) {
    Try([&] {
      const std::string verdict = HangVerdict(reports, nodes_);
      LogError("hang: {}. Every rank's last collectives and backtraces: {}/rank_*.json", verdict,
               options.directory);
      WriteFileAtomic(verdict_path, verdict + "\n");
    });
    Sleep(kShortestTick);  // the others go first, so that the launcher has our message
    Leave();
  }
  while (!FileExists(verdict_path) && timer.Seconds() < 2 * grace) Sleep(kShortestTick);
  Leave();
}

}  // namespace sepia::dist
