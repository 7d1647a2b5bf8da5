// Stands in for mpi_world.cc in a build without MPI (SEPIA_MPI=OFF).
#include "base/error.h"
#include "dist/communicator.h"
#include "dist/launcher.h"

namespace sepia::dist {

std::unique_ptr<Communicator> MakeWorldCommunicator() {
  if (StartedByLauncher()) {
    throw UserError(ExitCode::kEnvironment,
                    "started by mpirun or srun, but this sepia was built without MPI; install "
                    "libopenmpi-dev and build again with -DSEPIA_MPI=ON");
  }
  return MakeSelfCommunicator();
}

std::string MpiLibraryVersion() { return ""; }

}  // namespace sepia::dist
