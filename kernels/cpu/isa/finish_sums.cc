#include "kernels/cpu/isa/finish_sums.h"

#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

template <typename Out, typename Bias>
void FinishRows(const FinishedSums& args) {
  const auto* bias = static_cast<const Bias*>(args.bias);
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* sums = args.sums + row * args.sum_stride;
    Out* out = static_cast<Out*>(args.out) + row * args.out_stride;
    int64_t i = 0;
    for (; i + kLanes <= args.cols; i += kLanes) {
      Vec total = Load(sums + i);
      if (args.accumulate) total = total + Load(out + i);
      if (bias != nullptr) total = total + Load(bias + i);
      Store(out + i, total);
    }
    const int64_t count = args.cols - i;
    if (count > 0) {
      Vec total = LoadN(sums + i, count);
      if (args.accumulate) total = total + LoadN(out + i, count);
      if (bias != nullptr) total = total + LoadN(bias + i, count);
      StoreN(out + i, total, count);
    }
  }
}

template <typename Out>
void FinishByBias(const FinishedSums& args) {
  switch (args.bias_dtype) {
    case DType::kBFloat16: return FinishRows<Out, BFloat16>(args);
    case DType::kFloat16: return FinishRows<Out, Float16>(args);
    default: return FinishRows<Out, float>(args);
  }
}

}  // namespace

void FinishSums(const FinishedSums& args) {
  switch (args.out_dtype) {
    case DType::kBFloat16: return FinishByBias<BFloat16>(args);
    case DType::kFloat16: return FinishByBias<Float16>(args);
    default: return FinishByBias<float>(args);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
