#include "checkpoint/elements.h"

#include <cstring>

#include "base/check.h"

namespace sepia::checkpoint {
namespace {

template <typename Stored>
void Widen(const std::byte* bytes, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    Stored value;
    std::memcpy(&value, bytes + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<float>(value);
  }
}

template <typename Stored>
void Narrow(std::span<const float> values, std::byte* bytes) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Stored value(values[i]);
    std::memcpy(bytes + i * sizeof(Stored), &value, sizeof(Stored));
  }
}

}  // namespace

void WidenToFloats(DType dtype, std::span<const std::byte> bytes, std::span<float> out) {
  CHECK_EQ(static_cast<int64_t>(bytes.size()), static_cast<int64_t>(out.size()) * DTypeSize(dtype));
  if (out.empty()) return;
  switch (dtype) {
    case DType::kFloat32: std::memcpy(out.data(), bytes.data(), bytes.size()); return;
    case DType::kBFloat16: return Widen<BFloat16>(bytes.data(), out);
    case DType::kFloat16: return Widen<Float16>(bytes.data(), out);
    case DType::kFloat64: return Widen<double>(bytes.data(), out);
    default: break;
  }
  CHECK(false, "{} is no floating type", DTypeName(dtype));
}

void NarrowFromFloats(std::span<const float> values, DType dtype, std::span<std::byte> out) {
  CHECK_EQ(static_cast<int64_t>(out.size()),
           static_cast<int64_t>(values.size()) * DTypeSize(dtype));
  if (values.empty()) return;
  switch (dtype) {
    case DType::kFloat32: std::memcpy(out.data(), values.data(), out.size()); return;
    case DType::kBFloat16: return Narrow<BFloat16>(values, out.data());
    case DType::kFloat16: return Narrow<Float16>(values, out.data());
    default: break;
  }
  CHECK(false, "cannot narrow to {}", DTypeName(dtype));
}

}  // namespace sepia::checkpoint
