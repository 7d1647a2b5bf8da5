// The collectives, written once over a Transport.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "dist/communicator.h"
#include "dist/flight_recorder.h"
#include "dist/transport.h"

namespace sepia::dist {

// A group has a communication thread of its own, so `transport` is called by that thread while
// those of other groups call theirs. `recorder` is the rank's, for all of its groups. A group of
// one rank is the self communicator. `color`: of a part made by Split.
std::unique_ptr<Communicator> MakeGroupCommunicator(std::shared_ptr<Transport> transport,
                                                    std::shared_ptr<FlightRecorder> recorder,
                                                    const std::string& name,
                                                    std::optional<int> color = {});

}  // namespace sepia::dist
