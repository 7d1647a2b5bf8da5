// Runs the same ops on the cpu backend and on the device and compares what they give.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "kernels/context.h"

namespace sepia::tools::gpu_check {

// One line of the report.
struct Finding {
  std::string group, name;
  bool ok = false;
  std::string detail;
  double worst = 0;  // error over its bound, where something was compared
};

// The tensors of one run on one device. Both runs of a comparison ask for the same in the same
// order and so get the same values.
class Side {
 public:
  explicit Side(Device device);

  // Standard normal values, rounded to dtype.
  TensorView Random(DType dtype, const Shape& shape);
  // Uniform int32 in [0, bound).
  TensorView Integers(const Shape& shape, int32_t bound);
  TensorView Zeros(DType dtype, const Shape& shape);
  template <typename T>
  TensorView Value(T value) {
    OwnedTensor host(DTypeOf<T>::value, {1});
    host.data<T>()[0] = value;
    return Keep(std::move(host));
  }

  // What is compared: `depth` is the number of terms in a sum, `roundings` those to the compute
  // dtype on the way.
  struct Output {
    std::string name;
    TensorView tensor;
    double depth, roundings;
  };
  void Compare(const std::string& name, const TensorView& tensor, double depth,
               double roundings = 1) {
    outputs_.push_back({name, tensor, depth, roundings});
  }

  kernels::Context& ctx() { return ctx_; }
  Device device() const { return ctx_.device; }
  // Scratch for the ops that follow.
  void Reserve(int64_t scratch_bytes);
  const std::vector<Output>& outputs() const { return outputs_; }

 private:
  TensorView Keep(OwnedTensor host);

  kernels::Context ctx_;
  std::unique_ptr<Arena> scratch_;
  std::vector<OwnedTensor> tensors_;
  std::vector<Output> outputs_;
  uint64_t seed_ = 0;
};

// A rounding of a 16-bit format is 2^-8 or 2^-11 of the value, of fp32 2^-24; sums in fp32 differ
// by `depth` roundings of their largest element at most, here taken four times for what cancels.
// `dtype` is the compute dtype.
Finding CompareOnDevice(const std::string& name, DType dtype,
                        const std::function<void(Side&)>& run);

// Whether two runs on the device give the same bits.
Finding SameBitsOnDevice(const std::string& name, const std::function<void(Side&)>& run);

}  // namespace sepia::tools::gpu_check
