#include "kernels/cpu/isa/norm_rows.h"

#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

// A vector of kLanes elements, and the shorter one at the end of a row.
struct Whole {};
struct Part {
  int64_t count;
};

template <typename T>
Vec LoadLanes(const T* from, Whole) {
  return Load(from);
}
template <typename T>
Vec LoadLanes(const T* from, Part part) {
  return LoadN(from, part.count);
}
template <typename T>
void StoreLanes(T* to, Vec x, Whole) {
  Store(to, x);
}
template <typename T>
void StoreLanes(T* to, Vec x, Part part) {
  StoreN(to, x, part.count);
}
// Zero in lanes behind the row's end.
Vec Keep(Vec x, Whole) { return x; }
Vec Keep(Vec x, Part part) {
  return Select(LaneRange(0, static_cast<int32_t>(part.count)), x, Zero());
}

// fn(i, Whole or Part) for the vectors of a row.
template <typename Fn>
void ForEachVector(int64_t size, const Fn& fn) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) fn(i, Whole());
  if (i < size) fn(i, Part{size - i});
}

// The sum of term(i, Whole or Part) over the vectors of a row; additions take turns on four sums,
// so that they do not wait for each other.
template <typename Term>
float SumOf(int64_t size, const Term& term) {
  constexpr int64_t kSums = 4;
  Vec sums[kSums] = {Zero(), Zero(), Zero(), Zero()};
  int64_t i = 0;
  for (; i + kSums * kLanes <= size; i += kSums * kLanes) {
    for (int64_t s = 0; s < kSums; ++s) sums[s] = sums[s] + term(i + s * kLanes, Whole());
  }
  ForEachVector(size - i,
                [&](int64_t rest, auto lanes) { sums[0] = sums[0] + term(i + rest, lanes); });
  return Sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <typename T>
void Forward(const NormRow& row) {
  const T* x = static_cast<const T*>(row.x);
  const T* gamma = static_cast<const T*>(row.gamma);
  const T* beta = static_cast<const T*>(row.beta);
  T* y = static_cast<T*>(row.y);
  const auto size = static_cast<float>(row.size);
  *row.mean =
      SumOf(row.size, [&](int64_t i, auto lanes) { return LoadLanes(x + i, lanes); }) / size;
  const Vec mean = Set(*row.mean);
  const float variance = SumOf(row.size,
                               [&](int64_t i, auto lanes) {
                                 const Vec d = Keep(LoadLanes(x + i, lanes) - mean, lanes);
                                 return d * d;
                               }) /
                         size;
  *row.rstd = 1.0f / __builtin_sqrtf(variance + row.eps);
  const Vec rstd = Set(*row.rstd);
  ForEachVector(row.size, [&](int64_t i, auto lanes) {
    const Vec xhat = (LoadLanes(x + i, lanes) - mean) * rstd;
    StoreLanes(y + i, Fma(xhat, LoadLanes(gamma + i, lanes), LoadLanes(beta + i, lanes)), lanes);
  });
}

// Undoes y = xhat gamma + beta with xhat = (x - mean) rstd:
//   g = dy gamma;  dx = rstd (g - mean(g) - xhat mean(g xhat));  dgamma += dy xhat;  dbeta += dy.
template <typename T>
void Backward(const NormGradientRow& row) {
  const T* x = static_cast<const T*>(row.x);
  const T* gamma = static_cast<const T*>(row.gamma);
  const T* dy = static_cast<const T*>(row.dy);
  T* dx = static_cast<T*>(row.dx);
  const Vec mean = Set(row.mean);
  const Vec rstd = Set(row.rstd);
  const auto size = static_cast<float>(row.size);
  const auto gradient = [&](int64_t i, auto lanes) {
    return LoadLanes(dy + i, lanes) * LoadLanes(gamma + i, lanes);
  };
  const auto normalized = [&](int64_t i, auto lanes) {
    return (LoadLanes(x + i, lanes) - mean) * rstd;
  };
  const Vec mean_g = Set(SumOf(row.size, gradient) / size);
  const Vec mean_gx =
      Set(SumOf(row.size,
                [&](int64_t i, auto lanes) { return gradient(i, lanes) * normalized(i, lanes); }) /
          size);
  ForEachVector(row.size, [&](int64_t i, auto lanes) {
    const Vec xhat = normalized(i, lanes);
    const Vec d = LoadLanes(dy + i, lanes);
    StoreLanes(row.dgamma + i, Fma(d, xhat, LoadLanes(row.dgamma + i, lanes)), lanes);
    StoreLanes(row.dbeta + i, LoadLanes(row.dbeta + i, lanes) + d, lanes);
    Vec result = rstd * Fnma(xhat, mean_gx, gradient(i, lanes) - mean_g);
    if (row.accumulate) result = result + LoadLanes(dx + i, lanes);
    StoreLanes(dx + i, result, lanes);
  });
}

}  // namespace

void Normalize(const NormRow& row) {
  switch (row.dtype) {
    case DType::kBFloat16: return Forward<BFloat16>(row);
    case DType::kFloat16: return Forward<Float16>(row);
    default: return Forward<float>(row);
  }
}

void NormGradient(const NormGradientRow& row) {
  switch (row.dtype) {
    case DType::kBFloat16: return Backward<BFloat16>(row);
    case DType::kFloat16: return Backward<Float16>(row);
    default: return Backward<float>(row);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
