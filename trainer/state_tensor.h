// A part of the optimizer's state as checkpoints see it: fp32 under a Hugging Face name.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/device_memory.h"
#include "base/named_tensor.h"
#include "kernels/optimizer_state.h"

namespace sepia::trainer {

// A rectangle of one parameter's masters or moments, in the optimizer's memory. Its `view` is that
// memory where it holds the values as they are; otherwise a view of the shape without data.
class StateTensor : public NamedTensor {
 public:
  // `state`: of the rectangle's elements in order.
  StateTensor(std::string hf_name, const Shape& shape, const Shape& whole_shape,
              std::vector<int64_t> begin, kernels::StateRole role,
              const kernels::OptimizerState& state);

  // The values of elements [begin, begin + values.num_elements()), fp32 in host memory.
  void Read(int64_t begin, const TensorView& values) const;
  // All of them. After masters were written, AdamW::WeightsLoaded.
  void Write(const ConstTensorView& values) const;

  // write(fp32 host memory of the shape), whose contents then are the values.
  template <typename WriteValues>
  void Fill(const WriteValues& write) const {
    if (view.raw() != nullptr && view.device() == Device::kCpu) return write(view);
    const OwnedTensor values(DType::kFloat32, view.shape());
    write(values.view());
    Write(values);
  }

 private:
  kernels::StateRole role_;
  kernels::OptimizerState state_;
};

}  // namespace sepia::trainer
