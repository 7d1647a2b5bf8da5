// What the tests of ops share: random tensors, tensors as doubles, comparison by a derived bound.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "device_under_test.h"
#include "kernels/context.h"
#include "kernels/device.h"

namespace sepia::kernels::testing {

// Largest relative error of one rounding to nearest: f32 2^-24, f16 2^-11, bf16 2^-8 (f64 2^-53).
double UnitRoundoff(DType dtype);

// Absolute error of rounding `value` to dtype: relative, or half the smallest subnormal step.
double RoundingError(DType dtype, double value);

// Standard normal values times `scale`, rounded to dtype; the same for the same seed.
OwnedTensor RandomTensor(DType dtype, const Shape& shape, uint64_t seed, double scale = 1.0);

// Uniform integers in [0, bound).
OwnedTensor RandomTokens(const Shape& shape, int32_t bound, uint64_t seed);

// Tokens [B, T] of which about density[row] (the last one repeats) are kSeparator.
inline constexpr int32_t kSeparator = 7;
std::vector<int32_t> SeparatorTokens(int64_t batch_size, int64_t seq_length,
                                     const std::vector<double>& density);

// tensor[i] = value, rounded to the dtype (f32, bf16, f16 or f64).
void Set(const TensorView& tensor, int64_t i, float value);

// The elements of an f32, bf16, f16 or f64 tensor.
std::vector<double> Values(const ConstTensorView& tensor);

// One value of f32, f64 or i32 as a [1] tensor, and back.
template <typename T>
OwnedTensor Scalar(T value) {
  OwnedTensor tensor(DTypeOf<T>::value, {1});
  tensor.data<T>()[0] = value;
  return tensor;
}

OwnedTensor Copy(const ConstTensorView& tensor);
bool SameBits(const ConstTensorView& a, const ConstTensorView& b);

// |actual[i] - expected[i]| <= bound(i) everywhere; reports the worst element.
void ExpectWithin(const ConstTensorView& actual, const std::vector<double>& expected,
                  const std::function<double(size_t)>& bound, const std::string& what);

using sepia::testing::kTestDevice;

// A Context with a scratch arena of exactly `scratch_bytes`: a too small XScratchBytes fails.
class TestContext {
 public:
  explicit TestContext(int num_threads, int64_t scratch_bytes = 0)
      : arena_("scratch", scratch_bytes, OpenedTestDevice()) {
    context_.device = kTestDevice;
    context_.num_threads = num_threads;
    context_.scratch = &arena_;
  }
  operator Context&() { return context_; }  // NOLINT: stands for the context
  const Arena& arena() const { return arena_; }

 private:
  static Device OpenedTestDevice() {
    OpenDevice(kTestDevice);
    return kTestDevice;
  }

  Arena arena_;
  Context context_;
};

inline constexpr int kThreadCounts[] = {1, 2, 3, 5, 8};
inline constexpr DType kComputeDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

// gtest parameter names.
std::string DTypeParamName(const ::testing::TestParamInfo<DType>& info);

}  // namespace sepia::kernels::testing

#include "ops_under_test.h"  // overloads for what stands above
