// The ranks of a run and their devices.
#pragma once

#include <memory>

#include "dist/communicator.h"

namespace sepia::dist {

// Opens each rank's device (kernels::OpenDevice; GPUs of a node by turns) and returns the
// communicator through which tensors on it travel, and those of the host as before. For the host:
// `world` as it is. Collective. Throws UserError(kEnvironment) on all ranks when one has no device.
std::unique_ptr<Communicator> OpenDeviceWorld(std::unique_ptr<Communicator> world, Device device);

}  // namespace sepia::dist
