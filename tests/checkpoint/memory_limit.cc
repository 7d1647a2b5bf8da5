#include "tests/checkpoint/memory_limit.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <new>

namespace sepia::checkpoint::testing {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

int64_t AddressSpace() {
  std::ifstream statm("/proc/self/statm");
  int64_t pages = 0;
  statm >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

int Child(int64_t bytes, const std::function<void()>& work) {
  const auto most = static_cast<rlim_t>(AddressSpace() + bytes);
  const rlimit limit{most, most};
  setrlimit(RLIMIT_AS, &limit);
  try {
    work();
  } catch (const std::bad_alloc&) {
    return 1;
  } catch (...) {
    return 2;
  }
  return 0;
}

}  // namespace

LimitedOutcome RunWithMemoryLimit(int64_t bytes, const std::function<void()>& work) {
  if (kSanitized) return LimitedOutcome::kUnavailable;
  const pid_t child = fork();
  if (child == 0) _exit(Child(bytes, work));
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status)) return LimitedOutcome::kCrashed;
  constexpr LimitedOutcome kOutcomes[] = {LimitedOutcome::kReturned, LimitedOutcome::kOutOfMemory,
                                          LimitedOutcome::kCrashed};
  return kOutcomes[WEXITSTATUS(status)];
}

}  // namespace sepia::checkpoint::testing
