#include "dist/launcher.h"

#include <unistd.h>

#include <cstdlib>

#include <fmt/core.h>

#include "base/error.h"

namespace sepia::dist {

bool StartedByLauncher() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(variable) != nullptr) return true;
  }
  return false;
}

void RefuseUnconnectedTasks() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (StartedByLauncher() || tasks == nullptr || std::atoi(tasks) < 2) return;
  throw UserError(ExitCode::kEnvironment,
                  fmt::format("srun started {} processes that cannot find each other; use srun "
                              "--mpi=pmix, or mpirun inside the job",
                              tasks));
}

std::string NodeName() {
  char name[256] = "";
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

}  // namespace sepia::dist
