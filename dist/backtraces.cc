#include "dist/backtraces.h"

#include <cxxabi.h>
#include <execinfo.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "base/clock.h"

namespace sepia::dist {
namespace {

constexpr int kMaxThreads = 64;
constexpr int kMaxFrames = 48;

struct Slot {
  std::atomic<int> thread{0};
  std::atomic<int> depth{0};  // 0: no answer yet
  std::array<void*, kMaxFrames> frames;
};

std::array<Slot, kMaxThreads> slots;

int TraceSignal() { return SIGRTMIN + 5; }

int ThreadId() { return static_cast<int>(syscall(SYS_gettid)); }

// backtrace() is not on the list of async-signal-safe functions, but calls nothing that is not once
// it has run before (PrepareBacktraces).
void WriteTrace(int) {
  const int self = ThreadId();
  for (Slot& slot : slots) {
    if (slot.thread != self) continue;
    slot.depth = backtrace(slot.frames.data(), kMaxFrames);
    return;
  }
}

// "sepia(_ZN5sepia4dist3FooEv+0x12) [0x55...]" with the name in C++.
std::string Readable(const char* symbol) {
  const std::string text = symbol;
  const size_t begin = text.find('(');
  const size_t end = text.find_first_of("+)", begin == std::string::npos ? text.size() : begin);
  if (begin == std::string::npos || end == std::string::npos || end == begin + 1) return text;
  int status = 0;
  const std::string name = text.substr(begin + 1, end - begin - 1);
  char* plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  if (status != 0) return text;
  std::string readable = text.substr(0, begin + 1) + plain + text.substr(end);
  std::free(plain);
  return readable;
}

std::vector<std::string> Frames(const Slot& slot) {
  const int depth = slot.depth;
  std::vector<std::string> frames;
  char** symbols = backtrace_symbols(slot.frames.data(), depth);
  if (symbols == nullptr) return frames;
  // The first two are the handler and the return from it.
  for (int i = std::min(2, depth - 1); i < depth; ++i) frames.push_back(Readable(symbols[i]));
  std::free(symbols);
  return frames;
}

std::string NameOf(int thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

void PrepareBacktraces() {
  static std::once_flag once;
  std::call_once(once, [] {
    std::array<void*, 4> frames;
    backtrace(frames.data(), static_cast<int>(frames.size()));  // loads what it needs
    struct sigaction action {};
    action.sa_handler = WriteTrace;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(TraceSignal(), &action, nullptr);
  });
}

std::vector<ThreadTrace> TraceThreads(double seconds) {
  int count = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
    const int thread = std::atoi(entry.path().filename().c_str());
    if (thread == ThreadId() || count == kMaxThreads) continue;
    slots[static_cast<size_t>(count)].depth = 0;
    slots[static_cast<size_t>(count)].thread = thread;
    ++count;
  }
  const Timer timer;
  for (int i = 0; i < count; ++i) {
    syscall(SYS_tgkill, getpid(), slots[static_cast<size_t>(i)].thread.load(), TraceSignal());
  }
  std::vector<ThreadTrace> traces;
  for (int i = 0; i < count; ++i) {
    Slot& slot = slots[static_cast<size_t>(i)];
    while (slot.depth == 0 && timer.Seconds() < seconds) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    traces.push_back({.thread = slot.thread, .name = NameOf(slot.thread), .frames = {}});
    if (slot.depth > 0) traces.back().frames = Frames(slot);
    slot.thread = 0;
  }
  std::sort(traces.begin(), traces.end(),
            [](const ThreadTrace& a, const ThreadTrace& b) { return a.thread < b.thread; });
  return traces;
}

}  // namespace sepia::dist
