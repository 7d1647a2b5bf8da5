#include "tools/sepia/openmp_settings.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <string>

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

void LimitOpenMpSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  const std::string path = ExecutablePath();
  if (path.empty() || setenv("GOMP_SPINCOUNT", kSpinCount, 1) != 0) return;
  execv(path.c_str(), argv);
}

}  // namespace sepia::tools
