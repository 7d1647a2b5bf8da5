#include "dist/launcher.h"

#include <unistd.h>

#include <cstdlib>

namespace sepia::dist {

bool StartedByLauncher() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(variable) != nullptr) return true;
  }
  return false;
}

std::string NodeName() {
  char name[256] = "";
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

}  // namespace sepia::dist
