#include "tools/sepia/openmp_settings.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <string>
#include <vector>

namespace sepia::tools {
namespace {

constexpr const char* kSpinCount = "1000";

// Of this executable; "" where /proc does not say. Not /proc/self/exe itself, which would be the
// name of the process in ps and top.
std::string ExecutablePath() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length <= 0 ? "" : std::string(path, static_cast<size_t>(length));
}

}  // namespace

void UnbindMainThread() {
  if (omp_get_proc_bind() == omp_proc_bind_false) return;
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> processors(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, processors.data());
    for (const int processor : processors) {
      if (processor >= 0 && processor < CPU_SETSIZE) CPU_SET(processor, &all);
    }
  }
  if (CPU_COUNT(&all) > 0) sched_setaffinity(0, sizeof(all), &all);
}

void LimitOpenMpSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  const std::string path = ExecutablePath();
  if (path.empty() || setenv("GOMP_SPINCOUNT", kSpinCount, 1) != 0) return;
  execv(path.c_str(), argv);
}

void ShareProcessorsAmongRanks() {
  const char* local_ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (local_ranks == nullptr || std::getenv("OMP_NUM_THREADS") != nullptr) return;
  const long ranks = std::strtol(local_ranks, nullptr, 10);
  const long processors = sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t allowed;
  if (ranks < 2 || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  if (CPU_COUNT(&allowed) < processors) return;  // a share of its own
  setenv("OMP_NUM_THREADS", std::to_string(std::max(1L, processors / ranks)).c_str(), 1);
}

}  // namespace sepia::tools
