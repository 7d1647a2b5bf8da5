// In place of the cuda backend in builds without it. OpenDevice says so before any op can run.
#include "base/error.h"
#include "kernels/batch_upload.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"
#include "kernels/device.h"
#include "kernels/device_graphs.h"

namespace sepia::kernels::cuda {
namespace {

[[noreturn]] void Refuse() {
  throw UserError(ExitCode::kEnvironment,
                  "device: CUDA is not part of this build (cmake -DSEPIA_CUDA=ON); use --set "
                  "device=CPU");
}

}  // namespace

bool HasBackend() { return false; }
void OpenDevice(int) { Refuse(); }
void Synchronize() { Refuse(); }
std::string DeviceName() { Refuse(); }
Stream& MainStream() { Refuse(); }

void CachedAttention(Context&, const CachedAttentionArgs&) { Refuse(); }
void AddBiasResidualForward(Context&, const AddBiasResidualArgs&) { Refuse(); }
void AddBiasResidualBackward(Context&, const AddBiasResidualBackwardArgs&) { Refuse(); }
void Add(Context&, const AddArgs&) { Refuse(); }
void Cast(Context&, const ConstTensorView&, const TensorView&) { Refuse(); }
void Zero(Context&, const TensorView&) { Refuse(); }
void EmbeddingForward(Context&, const EmbeddingForwardArgs&) { Refuse(); }
void EmbeddingBackward(Context&, const EmbeddingBackwardArgs&) { Refuse(); }
void BiasGeluForward(Context&, const BiasGeluForwardArgs&) { Refuse(); }
void BiasGeluBackward(Context&, const BiasGeluBackwardArgs&) { Refuse(); }
void LayerNormForward(Context&, const LayerNormForwardArgs&) { Refuse(); }
void LayerNormBackward(Context&, const LayerNormBackwardArgs&) { Refuse(); }
void LinearForward(Context&, const LinearForwardArgs&) { Refuse(); }
void LinearBackward(Context&, const LinearBackwardArgs&) { Refuse(); }
void LmHeadLoss(Context&, const LmHeadLossArgs&) { Refuse(); }
void LmHeadLogits(Context&, const LmHeadLogitsArgs&) { Refuse(); }
void SquaredNorm(Context&, const SquaredNormArgs&) { Refuse(); }
void ClipFactor(Context&, const ClipFactorArgs&) { Refuse(); }
void AdamWUpdate(Context&, const AdamWArgs&) { Refuse(); }
void RotaryForward(Context&, const RotaryArgs&) { Refuse(); }
void RotaryBackward(Context&, const RotaryArgs&) { Refuse(); }
void SepAttentionForward(Context&, const SepAttentionForwardArgs&) { Refuse(); }
void SepAttentionBackward(Context&, const SepAttentionBackwardArgs&) { Refuse(); }
std::string SepAttentionKernelName(DType, int64_t, bool) { Refuse(); }
int64_t DnnScratchBytes(const SepAttentionShape& shape) { return ExpectedDnnScratchBytes(shape); }
std::string DnnKernelName(const SepAttentionShape&) { Refuse(); }

}  // namespace sepia::kernels::cuda

namespace sepia::kernels {

struct DeviceGraphs::Impl {};
DeviceGraphs::DeviceGraphs(Device, size_t) { cuda::Refuse(); }
DeviceGraphs::~DeviceGraphs() = default;
void DeviceGraphs::Run(const GraphKey&, const std::function<void()>&) { cuda::Refuse(); }
const GraphCounts& DeviceGraphs::counts() const { cuda::Refuse(); }

struct BatchUpload::Impl {};
BatchUpload::BatchUpload(const Limits&) { cuda::Refuse(); }
BatchUpload::~BatchUpload() = default;
void BatchUpload::Stage(const Batch&) { cuda::Refuse(); }
bool BatchUpload::is_staged() const { cuda::Refuse(); }
void BatchUpload::Load() { cuda::Refuse(); }
ConstTensorView BatchUpload::tokens() const { cuda::Refuse(); }
ConstTensorView BatchUpload::targets() const { cuda::Refuse(); }
ConstTensorView BatchUpload::loss_mask() const { cuda::Refuse(); }
const AttentionIndex& BatchUpload::index(size_t) const { cuda::Refuse(); }
const std::vector<int64_t>& BatchUpload::geometry() const { cuda::Refuse(); }

}  // namespace sepia::kernels
