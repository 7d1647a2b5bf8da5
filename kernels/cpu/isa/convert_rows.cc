#include "kernels/cpu/isa/convert_rows.h"

#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

template <typename From, typename To>
void ConvertRow(const From* from, int64_t count, To* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(from + i));
  if (i < count) StoreN(to + i, LoadN(from + i, count - i), count - i);
}

}  // namespace

void WidenRow(DType dtype, const void* from, int64_t count, float* to) {
  switch (dtype) {
    case DType::kBFloat16: return ConvertRow(static_cast<const BFloat16*>(from), count, to);
    case DType::kFloat16: return ConvertRow(static_cast<const Float16*>(from), count, to);
    default: return ConvertRow(static_cast<const float*>(from), count, to);
  }
}

void NarrowRow(DType dtype, const float* from, int64_t count, void* to) {
  switch (dtype) {
    case DType::kBFloat16: return ConvertRow(from, count, static_cast<BFloat16*>(to));
    case DType::kFloat16: return ConvertRow(from, count, static_cast<Float16*>(to));
    default: return ConvertRow(from, count, static_cast<float*>(to));
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
