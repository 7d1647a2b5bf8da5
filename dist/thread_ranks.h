// Ranks as threads of one process, for tests: the collectives of a real run without MPI, visible to
// sanitizers and debuggers.
//
//   RunThreadRanks(4, [](std::unique_ptr<Communicator> world) { ... });
#pragma once

#include <functional>
#include <memory>

#include "dist/communicator.h"

namespace sepia::dist {

// Runs `body` once a rank and waits for all. When a rank throws, the others' collectives throw as
// well, and the first rank's exception is rethrown here. With `bytes_per_second`, messages take as
// long as over a link of that speed; 0: as long as copies do.
void RunThreadRanks(int size, const std::function<void(std::unique_ptr<Communicator> world)>& body,
                    double bytes_per_second = 0);

}  // namespace sepia::dist
