// Collectives over tensors in GPU memory: NCCL moves them, a host communicator does the rest.
#pragma once

#include <memory>

#include "dist/communicator.h"
#include "kernels/cuda/device.h"

namespace sepia::dist {

// How floating-point sums over ranks are made.
enum class DeviceSums : uint8_t {
  // The contract of Communicator: in rank order, half precision in fp32, rounded once. Each rank
  // receives its slice from all others, adds, and sends it to all others: as many bytes as a ring,
  // in two steps, n - 1 messages a step.
  kRankOrder,
  // ncclAllReduce and ncclReduceScatter: faster across many nodes. NCCL promises neither an order
  // nor one rounding; the same bits come again for the same ranks, topology, version, sizes and
  // NCCL_* settings, unless NCCL_ALGO or tuning picks otherwise.
  kNccl,
};

struct NcclOptions {
  DeviceSums sums = DeviceSums::kRankOrder;
  // A collective that has not ended after so long is taken for a hang.
  double timeout_seconds = 600;
};

// A communicator of the ranks of `host`. Tensors on the device travel over NCCL, on a stream of the
// group's own that is ordered with `compute` on both sides: Pending::Wait() makes later work on
// `compute` wait and returns at once. Collectives of groups made by Split run in the order of their
// calls, one at a time, as on the host. traffic() counts, of those that are over, the time they ran
// and the time that `compute` stood still for them, by the device's events; the recorder of `host`
// has them too. Host tensors, Barrier and Split use `host`, which also
// carries NCCL's unique id. The device in use by the calling thread is this rank's; ranks on one
// GPU are refused by NCCL. Floating-point sums of f64 on the device are refused.
//
// A thread asks NCCL for asynchronous errors; on one, or on a timeout, it aborts all groups made
// from this communicator, so that kernels waiting for peers leave the GPU, and the next call and
// the next Wait() throw Error(kHang) naming the group, the collective and NCCL's message.
// Collective. Throws UserError(kEnvironment) when this build has no NCCL.
std::unique_ptr<Communicator> MakeNcclCommunicator(std::unique_ptr<Communicator> host,
                                                   kernels::cuda::Stream& compute,
                                                   const NcclOptions& options = {});

// "NCCL 2.28.9", or why there is none: for the header block and doctor.
std::string NcclName();

// This rank's place among the ranks of its node, by rank: the GPU it takes. Collective.
int LocalRank(Communicator& world);

}  // namespace sepia::dist
