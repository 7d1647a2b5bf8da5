#include "kernels/cpu/isa/sum_rows.h"

#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

template <int kTerms, typename T>
void SumTerms(const RowSum& sum) {
  const T* terms[4] = {static_cast<const T*>(sum.a), static_cast<const T*>(sum.b),
                       static_cast<const T*>(sum.c), static_cast<const T*>(sum.d)};
  T* y = static_cast<T*>(sum.y);
  int64_t i = 0;
  for (; i + kLanes <= sum.size; i += kLanes) {
    Vec total = Load(terms[0] + i);
    for (int t = 1; t < kTerms; ++t) total = total + Load(terms[t] + i);
    Store(y + i, total);
  }
  const int64_t rest = sum.size - i;
  if (rest == 0) return;
  Vec total = LoadN(terms[0] + i, rest);
  for (int t = 1; t < kTerms; ++t) total = total + LoadN(terms[t] + i, rest);
  StoreN(y + i, total, rest);
}

template <typename T>
void SumByTerms(const RowSum& sum) {
  if (sum.c == nullptr) return SumTerms<2, T>(sum);
  if (sum.d == nullptr) return SumTerms<3, T>(sum);
  SumTerms<4, T>(sum);
}

template <typename T>
void Add(const T* x, int64_t size, float* sums) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(sums + i, Load(sums + i) + Load(x + i));
  const int64_t rest = size - i;
  if (rest > 0) StoreN(sums + i, LoadN(sums + i, rest) + LoadN(x + i, rest), rest);
}

}  // namespace

void SumRows(const RowSum& sum) {
  switch (sum.dtype) {
    case DType::kBFloat16: return SumByTerms<BFloat16>(sum);
    case DType::kFloat16: return SumByTerms<Float16>(sum);
    default: return SumByTerms<float>(sum);
  }
}

void AddToSums(DType dtype, const void* x, int64_t size, float* sums) {
  switch (dtype) {
    case DType::kBFloat16: return Add(static_cast<const BFloat16*>(x), size, sums);
    case DType::kFloat16: return Add(static_cast<const Float16*>(x), size, sums);
    default: return Add(static_cast<const float*>(x), size, sums);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
