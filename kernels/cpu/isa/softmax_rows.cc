#include "kernels/cpu/isa/softmax_rows.h"

#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

// Lanes sum at most this many exponentials in fp32 before they are added in double.
constexpr int64_t kSumBlock = 64 * kLanes;

float MaxOf(const float* x, int64_t size) {
  Vec max = Set(x[0]);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) max = Max(max, Load(x + i));
  float result = MaxOfLanes(max);
  for (; i < size; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

template <typename Out>
void WriteGradient(const SoftmaxGradient& args, Out* out) {
  const Vec max = Set(args.row.max);
  const Vec factor = Set(static_cast<float>(static_cast<double>(args.scale) / args.row.sum));
  for (int64_t i = 0; i < args.size; i += kLanes) {
    const int64_t count = args.size - i;
    const Vec logits = LoadN(args.logits + i, count);
    Vec gradient = Exp(logits - max) * factor;
    if (args.target >= i && args.target - i < kLanes) {
      const auto lane = static_cast<int32_t>(args.target - i);
      const Vec one_hot = Select(LaneRange(lane, lane + 1), Set(args.scale), Zero());
      gradient = gradient - one_hot;
    }
    StoreN(out + i, gradient, count);
  }
}

}  // namespace

ExpSum SumOfExps(const float* logits, int64_t size) {
  const float max = MaxOf(logits, size);
  double total = 0.0;
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    const int64_t end = begin + kSumBlock < size ? begin + kSumBlock : size;
    Vec sum = Zero();
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) sum = sum + Exp(Load(logits + i) - Set(max));
    if (i < end) {
      const Vec last = Exp(LoadN(logits + i, end - i) - Set(max));
      sum = sum + Select(LaneRange(0, static_cast<int32_t>(end - i)), last, Zero());
    }
    total += static_cast<double>(Sum(sum));
  }
  return {max, total};
}

void WriteSoftmaxGradient(const SoftmaxGradient& args) {
  switch (args.out_dtype) {
    case DType::kBFloat16: return WriteGradient(args, static_cast<BFloat16*>(args.out));
    case DType::kFloat16: return WriteGradient(args, static_cast<Float16*>(args.out));
    default: return WriteGradient(args, static_cast<float*>(args.out));
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
