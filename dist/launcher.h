// Whether a parallel launcher started this process.
#pragma once

#include <string>

namespace sepia::dist {

// mpirun of Open MPI, srun with PMIx or PMI-2, mpiexec of MPICH: each tells a process its rank.
bool StartedByLauncher();

// Throws UserError(kEnvironment) when srun started several processes that would not know each other
// (srun --mpi=none): each of them would train alone.
void RefuseUnconnectedTasks();

// The name of this machine: ranks with equal names share memory.
std::string NodeName();

// "Open MPI v4.1.4, ..."; empty in a build without MPI.
std::string MpiLibraryVersion();

}  // namespace sepia::dist
