// Stands in for nccl_communicator.cc in builds without the cuda backend or NCCL.
#include "base/error.h"
#include "dist/nccl_communicator.h"

namespace sepia::dist {

std::unique_ptr<Communicator> MakeNcclCommunicator(std::unique_ptr<Communicator>,
                                                   kernels::cuda::Stream&, const NcclOptions&) {
  throw UserError(ExitCode::kEnvironment,
                  "several ranks with device: CUDA need NCCL, which this build lacks; install NCCL "
                  "and configure with -DSEPIA_CUDA=ON");
}

std::string NcclName() { return "no NCCL in this build"; }

}  // namespace sepia::dist
