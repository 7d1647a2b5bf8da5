// The collectives, written once over a Transport.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "dist/communicator.h"
#include "dist/transport.h"
#include "dist/work_queue.h"

namespace sepia::dist {

// `queue` is the rank's communication thread; all groups of the rank share it. A group of
// one rank is the self communicator. `color`: of a part made by Split.
std::unique_ptr<Communicator> MakeGroupCommunicator(std::shared_ptr<Transport> transport,
                                                    std::shared_ptr<WorkQueue> queue,
                                                    const std::string& name,
                                                    std::optional<int> color = {});

}  // namespace sepia::dist
