#include "kernels/rotary.h"

#include <cmath>

#include "kernels/check_args.h"
#include "kernels/cuda/ops.h"

namespace sepia::kernels {
namespace {

float RoundToHalf(float value) { return static_cast<float>(Float16(value)); }

void CheckArgs(const Context& ctx, const RotaryArgs& args) {
  CheckDevice(ctx);
  CheckComputeDType(args.qkv.dtype(), "qkv");
  CHECK(args.qkv.rank() == 5 && args.qkv.dim(3) == 3, "qkv is {}, expected [B, T, H, 3, D]",
        args.qkv.shape());
  CheckMatrix(args.cos, "cos");
  CHECK(args.cos.dim(0) >= args.qkv.dim(1) && 2 * args.cos.dim(1) <= args.qkv.dim(4),
        "tables {} for qkv {}", args.cos.shape(), args.qkv.shape());
  CheckTensor(args.cos, "cos", DType::kFloat32, args.cos.shape());
  CheckTensor(args.sin, "sin", DType::kFloat32, args.cos.shape());
}

}  // namespace

// torch computes inv_freq = 1.0 / (base ** (arange(0, dim, 2).float() / dim)) in fp32 and the
// product with the position in fp32. NeoX v1.0 then held inv_freq in fp16, so its positions
// (arange in that dtype), their products (exact in fp32, rounded once), cosines and sines were
// fp16 too; the functions themselves torch evaluates in fp32 before rounding.
void BuildRotaryTables(RotaryTables kind, double base, TensorView cos, TensorView sin) {
  CheckMatrix(cos, "cos");
  CheckTensor(sin, "sin", DType::kFloat32, cos.shape());
  const int64_t length = cos.dim(0);
  const int64_t half = cos.dim(1);
  const bool in_half = kind == RotaryTables::kNeoxFp16;
  const auto store = [&](float value) { return in_half ? RoundToHalf(value) : value; };
  for (int64_t j = 0; j < half; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(2 * half);
    const auto power = static_cast<float>(std::pow(base, static_cast<double>(exponent)));
    const float inv_freq = store(1.0f / power);
    for (int64_t t = 0; t < length; ++t) {
      const float angle = store(store(static_cast<float>(t)) * inv_freq);
      const auto wide = static_cast<double>(angle);
      cos.data<float>()[t * half + j] = store(static_cast<float>(std::cos(wide)));
      sin.data<float>()[t * half + j] = store(static_cast<float>(std::sin(wide)));
    }
  }
}

void RotaryForward(Context& ctx, const RotaryArgs& args) {
  CheckArgs(ctx, args);
  OnCuda(ctx) ? cuda::RotaryForward(ctx, args) : cpu::RotaryForward(ctx, args);
}

void RotaryBackward(Context& ctx, const RotaryArgs& args) {
  CheckArgs(ctx, args);
  OnCuda(ctx) ? cuda::RotaryBackward(ctx, args) : cpu::RotaryBackward(ctx, args);
}

}  // namespace sepia::kernels
