// Stands in for dnn.cc where cuDNN is not installed.
#include "base/error.h"
#include "kernels/cuda/dnn.h"

namespace sepia::kernels::cuda {

struct DnnAttention::Impl {};

DnnAttention::DnnAttention(const SepAttentionSize&, const DnnAttentionOptions&) {
  throw UserError(ExitCode::kEnvironment,
                  "this build has no cuDNN; install cuDNN 9 and configure again, or leave full "
                  "attention to Sepia's own kernels (kernels.full_attention: OWN)");
}
DnnAttention::~DnnAttention() = default;
std::string DnnAttention::KernelName() const { return {}; }
size_t DnnAttention::ScratchBytes() const { return 0; }
void DnnAttention::Forward(Stream&, const SepAttentionTensors&, void*) {}
void DnnAttention::Backward(Stream&, const SepAttentionTensors&, void*) {}

std::string DnnName() { return "no cuDNN in this build"; }

}  // namespace sepia::kernels::cuda
