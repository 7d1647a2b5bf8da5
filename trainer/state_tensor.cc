#include "trainer/state_tensor.h"

namespace sepia::trainer {
namespace {

TensorView PlainView(const kernels::OptimizerState& state, kernels::StateRole role,
                     const Shape& shape) {
  const TensorView plain = kernels::PlainValues(state, role);
  return plain.empty() ? TensorView(nullptr, DType::kFloat32, shape) : plain.Reshaped(shape);
}

}  // namespace

StateTensor::StateTensor(std::string hf_name, const Shape& shape, const Shape& whole_shape,
                         std::vector<int64_t> begin, kernels::StateRole role,
                         const kernels::OptimizerState& state)
    : NamedTensor{std::move(hf_name), PlainView(state, role, shape), whole_shape, std::move(begin)},
      role_(role),
      state_(state) {}

void StateTensor::Read(int64_t begin, const TensorView& values) const {
  kernels::ReadValues(kernels::Rows(state_, begin, values.num_elements()), role_, values);
}

void StateTensor::Write(const ConstTensorView& values) const {
  kernels::WriteValues(state_, role_, values);
}

}  // namespace sepia::trainer
