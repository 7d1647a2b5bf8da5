// What the ranks of a run tell each other before step 0. The program, the config and the training
// data are compared where they are read; this adds what follows from them.
#pragma once

#include <string>
#include <vector>

#include "dist/communicator.h"
#include "dist/mesh.h"
#include "trainer/settings.h"

namespace sepia::trainer {

// Names, shapes and placement of all parameters, as a digest.
std::string ParameterTableDigest(const model::ModelConfig& model);

// Throws as dist::RequireSame does when the parameter tables differ, naming rank and node. Warns,
// once, when ranks have unequal numbers of threads or fewer processors than threads. Collective.
void CompareRanks(dist::Communicator& world, const TrainSettings& settings);

// Throws as dist::Agree does when the planned memory of all ranks of a node is more than it has.
// Nothing of it is allocated yet. Looks at the memory of hosts only: a GPU refuses by itself what
// it cannot give. Collective.
void RequireMemoryOfRanks(dist::Mesh& mesh, const TrainSettings& settings);

// One all-reduce in each group with a known sum. Throws InternalError when it is wrong. Returns a
// line a group, for people. Collective.
std::vector<std::string> TryGroups(dist::Mesh& mesh);

}  // namespace sepia::trainer
