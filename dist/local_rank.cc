#include <algorithm>
#include <string>
#include <vector>

#include "dist/gather.h"
#include "dist/launcher.h"
#include "dist/nccl_communicator.h"

namespace sepia::dist {

int LocalRank(Communicator& world) {
  const std::vector<std::string> nodes = GatherTexts(world, NodeName(), "names of nodes");
  const auto own = nodes.begin() + world.rank();
  return static_cast<int>(std::count(nodes.begin(), own, *own));
}

}  // namespace sepia::dist
