#include "dist/device_world.h"

#include <utility>

#include "dist/agreement.h"
#include "dist/nccl_communicator.h"
#include "kernels/cuda/ops.h"
#include "kernels/device.h"

namespace sepia::dist {

std::unique_ptr<Communicator> OpenDeviceWorld(std::unique_ptr<Communicator> world, Device device) {
  if (device == Device::kCpu) return world;
  const int local_rank = LocalRank(*world);
  Agree(*world, [&] { kernels::OpenDevice(device, local_rank); });
  if (world->size() == 1) return world;
  return MakeNcclCommunicator(std::move(world), kernels::cuda::MainStream());
}

}  // namespace sepia::dist
