// What `sepia doctor` looks at when several ranks were started: their places, and the links between
// them.
#pragma once

#include <vector>

#include "dist/mesh.h"
#include "tools/sepia/machine_check.h"

namespace sepia::tools {

// MPI library, where the ranks run, shared memory of their nodes. Collective; the same on all
// ranks.
std::vector<Finding> CheckPlacement(dist::Communicator& world, int threads);

// Latency and bandwidth of every axis of the mesh and of pairs of ranks; slow links. Collective;
// the same on all ranks.
std::vector<Finding> CheckLinks(dist::Mesh& mesh);

// Speed of every rank while all of them work; slow ranks. Collective; the same on all ranks.
std::vector<Finding> CheckSpeed(dist::Communicator& world, int threads);

}  // namespace sepia::tools
