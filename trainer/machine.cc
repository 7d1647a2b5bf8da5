#include "trainer/machine.h"

#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "trainer/log_line.h"

namespace sepia::trainer {
namespace {

// The text after "key" and a colon in a file of "key : value" lines.
std::string FindLine(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

int64_t MemInfoBytes(const std::string& key) {
  return std::strtoll(FindLine("/proc/meminfo", key).c_str(), nullptr, 10) * 1024;
}

// 0 for "max", an unlimited number, or no such file.
int64_t ReadLimit(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  if (!(file >> text) || text == "max") return 0;
  const int64_t limit = std::strtoll(text.c_str(), nullptr, 10);
  return limit >= std::numeric_limits<int64_t>::max() / 2 ? 0 : limit;
}

// The tightest limit from this process's group up to the root (cgroup v2), or of v1's group.
int64_t CgroupBytes() {
  std::ifstream groups("/proc/self/cgroup");
  int64_t tightest = 0;
  const auto tighten = [&](int64_t limit) {
    if (limit > 0 && (tightest == 0 || limit < tightest)) tightest = limit;
  };
  for (std::string line; std::getline(groups, line);) {
    const size_t last = line.rfind(':');
    if (last == std::string::npos) continue;
    std::string group = line.substr(last + 1);
    const bool v2 = line.compare(0, 3, "0::") == 0;
    if (!v2 && line.find("memory") == std::string::npos) continue;
    while (true) {
      tighten(ReadLimit(v2 ? "/sys/fs/cgroup" + group + "/memory.max"
                           : "/sys/fs/cgroup/memory" + group + "/memory.limit_in_bytes"));
      const size_t slash = group.rfind('/');
      if (slash == std::string::npos || group.empty()) break;
      group.resize(slash);
    }
  }
  return tightest;
}

int UsableCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

// The word in brackets: "always [madvise] never".
std::string HugePages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  std::getline(file, line);
  const size_t begin = line.find('[');
  const size_t end = line.find(']');
  return begin == std::string::npos || end == std::string::npos
             ? ""
             : line.substr(begin + 1, end - begin - 1);
}

}  // namespace

int64_t MachineFacts::memory_bytes() const {
  if (cgroup_bytes == 0) return physical_bytes;
  return physical_bytes == 0 ? cgroup_bytes : std::min(physical_bytes, cgroup_bytes);
}

MachineFacts ReadMachine() {
  MachineFacts facts;
  facts.cpu = FindLine("/proc/cpuinfo", "model name");
  if (facts.cpu.empty()) facts.cpu = "unknown";
  facts.logical_cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  facts.usable_cpus = UsableCpus();
  facts.physical_bytes = MemInfoBytes("MemTotal");
  facts.available_bytes = MemInfoBytes("MemAvailable");
  facts.swap_bytes = MemInfoBytes("SwapTotal");
  facts.cgroup_bytes = CgroupBytes();
  facts.huge_pages = HugePages();
  return facts;
}

void RequireMemory(int64_t bytes, const std::string& who, const std::string& remedy) {
  const MachineFacts machine = ReadMachine();
  const int64_t memory = machine.memory_bytes();
  if (memory == 0 || bytes <= memory + machine.swap_bytes) return;
  throw UserError(ExitCode::kEnvironment,
                  fmt::format("{}: {} of memory do not fit in this machine's {}{}; {}", who,
                              FormatBytes(bytes), FormatBytes(memory),
                              machine.swap_bytes == 0
                                  ? std::string()
                                  : fmt::format(" and {} of swap", FormatBytes(machine.swap_bytes)),
                              remedy));
}

int64_t FreeDiskBytes(const std::string& path) {
  std::string directory = path.empty() ? "." : path;
  while (!FileExists(directory)) {
    const std::string parent = DirectoryOf(directory);
    if (parent == directory) break;
    directory = parent;
  }
  struct statvfs stats {};
  if (statvfs(directory.c_str(), &stats) != 0) return -1;
  return static_cast<int64_t>(stats.f_bavail) * static_cast<int64_t>(stats.f_frsize);
}

}  // namespace sepia::trainer
