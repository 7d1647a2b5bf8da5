#include "kernels/cpu/isa/rotary_rows.h"

#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

// (a, b) -> (a cos - b sin, b cos + a sin), half dimensions apart, for the same kLanes or fewer
// dimensions of every query and key, while their cos and sin are in registers.
template <typename T>
void RotateDimensions(const RotaryRow& row, int64_t begin, int64_t count) {
  const Vec cos = LoadN(row.cos + begin, count);
  const Vec sin = LoadN(row.sin + begin, count) * Set(row.sign);
  T* head = static_cast<T*>(row.qkv) + begin;
  for (int64_t h = 0; h < row.num_heads; ++h, head += 3 * row.head_dim) {
    for (int64_t at = 0; at < 2 * row.head_dim; at += row.head_dim) {
      T* part = head + at;
      const Vec a = LoadN(part, count);
      const Vec b = LoadN(part + row.half, count);
      StoreN(part, Fma(a, cos, -(b * sin)), count);
      StoreN(part + row.half, Fma(b, cos, a * sin), count);
    }
  }
}

template <typename T>
void RotateRow(const RotaryRow& row) {
  for (int64_t begin = 0; begin < row.half; begin += kLanes) {
    const int64_t rest = row.half - begin;
    RotateDimensions<T>(row, begin, rest < kLanes ? rest : kLanes);
  }
}

}  // namespace

void Rotate(const RotaryRow& row) {
  switch (row.dtype) {
    case DType::kBFloat16: return RotateRow<BFloat16>(row);
    case DType::kFloat16: return RotateRow<Float16>(row);
    default: return RotateRow<float>(row);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
