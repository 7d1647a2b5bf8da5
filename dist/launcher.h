// Whether a parallel launcher started this process.
#pragma once

#include <string>

namespace sepia::dist {

// mpirun of Open MPI, srun with PMIx or PMI-2, mpiexec of MPICH: each tells a process its rank.
bool StartedByLauncher();

// The name of this machine: ranks with equal names share memory.
std::string NodeName();

}  // namespace sepia::dist
