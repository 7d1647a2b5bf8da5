#include "dist/reduce.h"

#include <algorithm>
#include <type_traits>

#include "base/check.h"

namespace sepia::dist {
namespace {

// Elements that are reduced at a time, so that the running value stays in the cache.
constexpr int64_t kPiece = 2048;

// The type a reduction of T runs in.
template <typename T>
using Wide = std::conditional_t<std::is_arithmetic_v<T>, T, float>;

template <typename T>
void Combine(ReduceOp op, const T* values, int64_t count, Wide<T>* result) {
  using W = Wide<T>;
  switch (op) {
    case ReduceOp::kSum:
      for (int64_t i = 0; i < count; ++i) result[i] += static_cast<W>(values[i]);
      return;
    case ReduceOp::kMin:
      for (int64_t i = 0; i < count; ++i)
        result[i] = std::min(result[i], static_cast<W>(values[i]));
      return;
    case ReduceOp::kMax:
      for (int64_t i = 0; i < count; ++i)
        result[i] = std::max(result[i], static_cast<W>(values[i]));
      return;
  }
}

template <typename T>
void Reduce(std::span<const void* const> parts, int64_t count, ReduceOp op, T* out) {
  Wide<T> result[kPiece];
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t size = std::min(kPiece, count - begin);
    const T* first = static_cast<const T*>(parts[0]) + begin;
    for (int64_t i = 0; i < size; ++i) result[i] = static_cast<Wide<T>>(first[i]);
    for (const void* part : parts.subspan(1)) {
      Combine(op, static_cast<const T*>(part) + begin, size, result);
    }
    for (int64_t i = 0; i < size; ++i) out[begin + i] = static_cast<T>(result[i]);
  }
}

}  // namespace

void ReduceInOrder(std::span<const void* const> parts, int64_t count, DType dtype, ReduceOp op,
                   void* out) {
  switch (dtype) {
    case DType::kFloat32: return Reduce(parts, count, op, static_cast<float*>(out));
    case DType::kFloat64: return Reduce(parts, count, op, static_cast<double*>(out));
    case DType::kBFloat16: return Reduce(parts, count, op, static_cast<BFloat16*>(out));
    case DType::kFloat16: return Reduce(parts, count, op, static_cast<Float16*>(out));
    case DType::kInt32: return Reduce(parts, count, op, static_cast<int32_t*>(out));
    case DType::kInt64: return Reduce(parts, count, op, static_cast<int64_t*>(out));
    default: CHECK(false, "a reduction of {}", DTypeName(dtype));
  }
}

}  // namespace sepia::dist
