// The ranks that run a command together: one process, or those that mpirun or srun started.
#pragma once

#include <memory>

#include "dist/communicator.h"

namespace sepia::tools {

// The world of this process. Checks that all ranks run the same program, and sets up logging: INFO
// goes to the terminal on rank 0 only, messages of the others name their rank. Once a process.
std::unique_ptr<dist::Communicator> JoinWorld();

}  // namespace sepia::tools
