#include "kernels/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "base/integer.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/split_master.h"

namespace sepia::kernels {
namespace {

// fp32 squares are exact in double; eight running sums make the order of additions explicit.
double SumOfSquares(const float* x, int64_t count) {
  std::array<double, 8> sums{};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) {
      const auto value = static_cast<double>(x[i + static_cast<int64_t>(lane)]);
      sums[lane] += value * value;
    }
  }
  for (size_t lane = 0; i < count; ++i, ++lane) {
    sums[lane] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// The constants of one update, computed in double and rounded once.
struct AdamWConstants {
  explicit AdamWConstants(const AdamWArgs& args)
      : grad_multiplier(args.grad_multiplier.data<float>()[0]),
        beta1(static_cast<float>(args.beta1)),
        one_minus_beta1(static_cast<float>(1.0 - args.beta1)),
        beta2(static_cast<float>(args.beta2)),
        one_minus_beta2(static_cast<float>(1.0 - args.beta2)),
        step_size(static_cast<float>(args.lr /
                                     (1.0 - std::pow(args.beta1, static_cast<double>(args.t))))),
        rsqrt_correction2(static_cast<float>(
            1.0 / std::sqrt(1.0 - std::pow(args.beta2, static_cast<double>(args.t))))),
        eps(static_cast<float>(args.eps)),
        decay(static_cast<float>(args.lr * args.weight_decay)) {}

  float grad_multiplier, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;          // lr / (1 - beta1^t)
  float rsqrt_correction2;  // 1 / sqrt(1 - beta2^t)
  float eps;
  float decay;  // lr weight_decay
};

// New moments; returns what the master loses.
inline float UpdateMoments(const AdamWConstants& k, float grad, float master, float* exp_avg,
                           float* exp_avg_sq) {
  const float g = grad * k.grad_multiplier;
  const float m = std::fma(k.one_minus_beta1, g, k.beta1 * *exp_avg);
  const float v = std::fma(k.one_minus_beta2 * g, g, k.beta2 * *exp_avg_sq);
  const float denominator = std::fma(std::sqrt(v), k.rsqrt_correction2, k.eps);
  *exp_avg = m;
  *exp_avg_sq = v;
  return std::fma(k.decay, master, k.step_size * (m / denominator));
}

void UpdateRange(const AdamWConstants& k, const float* grad, float* master, float* exp_avg,
                 float* exp_avg_sq, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    master[i] -= UpdateMoments(k, grad[i], master[i], exp_avg + i, exp_avg_sq + i);
  }
}

// What a thread works on at a time: little enough to stay in cache between the passes over it.
template <typename T>
struct Piece {
  T* weight;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  int64_t count;
};

void UpdatePiece(const AdamWConstants& k, const Piece<float>& p, void*) {
  UpdateRange(k, p.grad, p.weight, p.exp_avg, p.exp_avg_sq, p.count);
}

void UpdatePiece(const AdamWConstants& k, const Piece<Float16>& p, float* master) {
  UpdateRange(k, p.grad, master, p.exp_avg, p.exp_avg_sq, p.count);
  cpu::Narrow(master, p.weight, p.count);
}

// One loop: joining and splitting hide behind the divisions and roots.
void UpdatePiece(const AdamWConstants& k, const Piece<BFloat16>& p, int16_t* remainder) {
  const Piece<BFloat16> q = p;
#pragma omp simd
  for (int64_t i = 0; i < q.count; ++i) {
    float master = cpu::JoinMaster(q.weight[i], remainder[i], q.exp_avg_sq[i]);
    float exp_avg = q.exp_avg[i];
    float exp_avg_sq = cpu::PlainSecondMoment(q.exp_avg_sq[i]);
    master -= UpdateMoments(k, q.grad[i], master, &exp_avg, &exp_avg_sq);
    q.weight[i].bits = BFloat16::FromFloat(master);
    remainder[i] = cpu::Remainder(master);
    q.exp_avg[i] = exp_avg;
    q.exp_avg_sq[i] = cpu::WithTieBit(exp_avg_sq, cpu::TieBit(master));
  }
}

}  // namespace

void cpu::SquaredNorm(Context& ctx, const SquaredNormArgs& args) {
  constexpr int64_t kMaxBlocks = 512;
  constexpr int64_t kMinBlock = 1 << 14;
  const int64_t size = args.x.num_elements();
  const int64_t block = std::max(kMinBlock, CeilDiv(size, kMaxBlocks));
  std::array<double, kMaxBlocks> partials{};
  const float* x = args.x.data<float>();
  ParallelForRange(ctx, size, block, [&](int64_t begin, int64_t end) {
    partials[static_cast<size_t>(begin / block)] = SumOfSquares(x + begin, end - begin);
  });
  double total = args.mode == GradMode::kAccumulate ? args.sum.data<double>()[0] : 0.0;
  for (const double partial : partials) total += partial;
  args.sum.data<double>()[0] = total;
}

void cpu::ClipFactor(Context&, const ClipFactorArgs& args) {
  const auto scale = static_cast<double>(args.loss_scale.data<float>()[0]);
  const double norm = std::sqrt(args.squared_norm.data<double>()[0]) / scale;
  const double c = args.clip > 0.0 ? (norm + 1e-6) / args.clip : 0.0;
  const bool finite = std::isfinite(norm);
  args.norm.data<double>()[0] = norm;
  args.grad_multiplier.data<float>()[0] =
      finite ? static_cast<float>(1.0 / scale / std::max(1.0, c)) : 0.0f;
  args.skip.data<int32_t>()[0] = finite ? 0 : 1;
}

void cpu::AdamWUpdate(Context& ctx, const AdamWArgs& args) {
  constexpr int64_t kGrain = 1 << 15;
  if (args.skip.data<int32_t>()[0] != 0) return;
  const AdamWConstants constants(args);
  const OptimizerState& state = args.state;
  DispatchCompute(state.weight.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using Master = std::conditional_t<std::is_same_v<T, BFloat16>, int16_t, float>;
    Master* master = state.master.empty() ? nullptr : state.master.data<Master>();
    const Piece<T> all = {.weight = state.weight.data<T>(),
                          .grad = args.grad.data<float>(),
                          .exp_avg = state.exp_avg.data<float>(),
                          .exp_avg_sq = state.exp_avg_sq.data<float>(),
                          .count = state.weight.num_elements()};
    ParallelForRange(ctx, all.count, kGrain, [&](int64_t begin, int64_t end) {
      ForEachPiece(end - begin, [&](int64_t offset, int64_t count) {
        const int64_t first = begin + offset;
        const Piece<T> piece = {all.weight + first, all.grad + first, all.exp_avg + first,
                                all.exp_avg_sq + first, count};
        UpdatePiece(constants, piece, master == nullptr ? nullptr : master + first);
      });
    });
  });
}

}  // namespace sepia::kernels
