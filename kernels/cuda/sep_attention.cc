#include "kernels/cuda/sep_attention.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels::cuda {

extern const SepAttentionKernels kSepFallbackFp32, kSepFallbackBf16, kSepFallbackFp16;
extern const SepAttentionKernels kSepBf16Dim32, kSepBf16Dim64, kSepBf16Dim80, kSepBf16Dim128,
    kSepBf16Dim256;
extern const SepAttentionKernels kSepFp16Dim32, kSepFp16Dim64, kSepFp16Dim80, kSepFp16Dim128,
    kSepFp16Dim256;

namespace {

const SepAttentionKernels* Fallback(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16: return &kSepFallbackBf16;
    case DType::kFloat16: return &kSepFallbackFp16;
    default: return &kSepFallbackFp32;
  }
}

// The smallest tile that the head fits, or null.
const SepAttentionKernels* TensorCoreKernels(DType dtype, int64_t head_dim) {
  if (dtype == DType::kFloat32 || head_dim % 8 != 0) return nullptr;
  static constexpr const SepAttentionKernels* kBf16[] = {
      &kSepBf16Dim32, &kSepBf16Dim64, &kSepBf16Dim80, &kSepBf16Dim128, &kSepBf16Dim256};
  static constexpr const SepAttentionKernels* kFp16[] = {
      &kSepFp16Dim32, &kSepFp16Dim64, &kSepFp16Dim80, &kSepFp16Dim128, &kSepFp16Dim256};
  for (const SepAttentionKernels* kernels : dtype == DType::kBFloat16 ? kBf16 : kFp16) {
    if (head_dim <= kernels->padded_dim) return kernels;
  }
  return nullptr;
}

const SepAttentionKernels& Choose(DType dtype, int64_t head_dim, bool allow_fallback) {
  if (head_dim > kMaxHeadDim) {
    throw UserError(fmt::format("device: CUDA has attention for head sizes up to {}, not {}",
                                kMaxHeadDim, head_dim));
  }
  if (const auto* kernels = TensorCoreKernels(dtype, head_dim)) return *kernels;
  if (!allow_fallback) {
    throw UserError(fmt::format(
        "kernels.allow_fallback is false, but {} attention with head size {} has no tensor-core "
        "kernel; use BF16 or FP16 and a multiple of 8, or allow the fallback",
        DTypeName(dtype), head_dim));
  }
  return *Fallback(dtype);
}

// Where the parts of an index lie.
struct IndexParts {
  IndexParts(int64_t batch_size, int64_t seq_length, int64_t packed)
      : count(batch_size * packed),
        inverse(count + batch_size * seq_length),
        num_packed(inverse + batch_size * seq_length),
        end(num_packed + batch_size) {}
  int64_t count, inverse, num_packed, end;  // positions come first
};

}  // namespace

size_t DeviceAttentionIndex::Bytes(int64_t batch_size, int64_t seq_length, int64_t packed) {
  return static_cast<size_t>(IndexParts(batch_size, seq_length, packed).end) * sizeof(int32_t);
}

void DeviceAttentionIndex::Pack(const AttentionIndex& index, int64_t packed, int32_t* to) {
  CHECK_LE(index.max_packed(), packed);
  const int64_t length = index.seq_length();
  const IndexParts parts(index.batch_size(), length, packed);
  for (int64_t row = 0; row < index.batch_size(); ++row) {
    const auto positions = index.positions(row);
    const auto count = index.count(row), inverse = index.inverse(row);
    int32_t* const end = std::copy(positions.begin(), positions.end(), to + row * packed);
    std::fill(end, to + (row + 1) * packed, 0);
    std::copy(count.begin(), count.end(), to + parts.count + row * length);
    std::copy(inverse.begin(), inverse.end(), to + parts.inverse + row * length);
    to[parts.num_packed + row] = static_cast<int32_t>(positions.size());
  }
}

DeviceAttentionIndex::DeviceAttentionIndex(const AttentionIndex& index, const Copy& copy,
                                           DeviceMemory memory)
    : batch_size_(index.batch_size()),
      seq_length_(index.seq_length()),
      max_packed_(index.max_packed()),
      memory_(std::move(memory)) {
  const size_t num_bytes = Bytes(batch_size_, seq_length_, max_packed_);
  if (memory_.size() == 0) memory_ = DeviceMemory(num_bytes);
  CHECK_LE(num_bytes, memory_.size());
  values_ = memory_.data<int32_t>();
  std::vector<int32_t> values(num_bytes / sizeof(int32_t));
  Pack(index, max_packed_, values.data());
  copy(memory_.data<void>(), values.data(), num_bytes);
}

DeviceAttentionIndex::DeviceAttentionIndex(Stream& stream, const AttentionIndex& index)
    : DeviceAttentionIndex(index, [&](void* to, const void* from, size_t num_bytes) {
        CopyToDevice(stream, to, from, num_bytes);
        stream.Synchronize();
      }) {}

void DeviceAttentionIndex::Describe(SepAttentionParams& params) const {
  const IndexParts parts(batch_size_, seq_length_, max_packed_);
  params.positions = values_;
  params.count = values_ + parts.count;
  params.inverse = values_ + parts.inverse;
  params.num_packed = values_ + parts.num_packed;
  params.max_packed = static_cast<int32_t>(max_packed_);
}

SepAttention::SepAttention(const SepAttentionSize& size, const DeviceAttentionIndex& index,
                           bool allow_fallback)
    : size_(size), kernels_(&Choose(size.dtype, size.head_dim, allow_fallback)) {
  CHECK_EQ(index.batch_size(), size.batch_size);
  CHECK_EQ(index.seq_length(), size.seq_length);
  CHECK(size.window >= 1 && size.head_dim >= 1);
  index.Describe(params_);
  params_.batch_size = static_cast<int32_t>(size.batch_size);
  params_.seq_length = static_cast<int32_t>(size.seq_length);
  params_.num_heads = static_cast<int32_t>(size.num_heads);
  params_.head_dim = static_cast<int32_t>(size.head_dim);
  params_.window = static_cast<int32_t>(std::min(size.window, size.seq_length));
  const int64_t segments = NumSegments(size.batch_size, size.seq_length, size.num_heads);
  const int64_t length = (size.seq_length + segments - 1) / segments;
  params_.num_segments = static_cast<int32_t>(segments);
  params_.segment_length =
      static_cast<int32_t>((length + kSegmentAlignment - 1) / kSegmentAlignment) *
      kSegmentAlignment;
  params_.scale = 1.0f / std::sqrt(static_cast<float>(size.head_dim));
}

std::string SepAttention::NameOfKernel(DType dtype, int64_t head_dim, bool allow_fallback) {
  const SepAttentionKernels& kernels = Choose(dtype, head_dim, allow_fallback);
  const std::string format(DTypeName(dtype));
  if (kernels.padded_dim == 0) return "fallback " + format;
  std::string name = "mma.sync " + format + " D=" + std::to_string(head_dim);
  if (kernels.padded_dim != head_dim) name += " in " + std::to_string(kernels.padded_dim);
  return name;
}

size_t SepAttention::ScratchBytes() const {
  SepAttentionParams params = params_;
  return static_cast<size_t>(CutSepAttentionScratch(params, nullptr));
}

size_t SepAttention::ForwardScratchBytes() const {
  SepAttentionParams params = params_;
  params.num_segments = 0;
  return static_cast<size_t>(CutSepAttentionScratch(params, nullptr));
}

SepAttentionParams SepAttention::Bind(const SepAttentionTensors& tensors, void* scratch) const {
  SepAttentionParams params = params_;
  CutSepAttentionScratch(params, scratch);
  params.qkv = static_cast<const uint16_t*>(tensors.qkv);
  params.out = static_cast<uint16_t*>(tensors.out);
  params.lse = tensors.lse;
  params.dout = static_cast<const uint16_t*>(tensors.dout);
  params.dqkv = static_cast<uint16_t*>(tensors.dqkv);
  return params;
}

void SepAttention::Forward(Stream& stream, const SepAttentionTensors& tensors,
                           void* scratch) const {
  const SepAttentionParams params = Bind(tensors, scratch);
  kernels_->pack(stream, params);
  kernels_->forward(stream, params);
}

void SepAttention::Backward(Stream& stream, const SepAttentionTensors& tensors,
                            void* scratch) const {
  const SepAttentionParams params = Bind(tensors, scratch);
  kernels_->pack(stream, params);
  kernels_->row_stats(stream, params);
  kernels_->dq(stream, params);
  kernels_->dkv_far(stream, params);
  kernels_->dkv_band(stream, params);
}

}  // namespace sepia::kernels::cuda
