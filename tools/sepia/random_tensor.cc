#include "tools/sepia/random_tensor.h"

#include <algorithm>
#include <vector>

#include "base/philox.h"
#include "kernels/elementwise.h"

namespace sepia::tools {

OwnedTensor RandomTensor(std::string_view name, DType dtype, const Shape& shape) {
  constexpr int64_t kPeriod = 999'983;  // prime: rows do not repeat each other
  const PhiloxStream random(2, name);
  const int64_t size = shape.num_elements();
  const OwnedTensor period(DType::kFloat32, {std::min(size, kPeriod)});
  for (int64_t i = 0; i < period.view().num_elements(); ++i) {
    period.data<float>()[i] = random.Normal(static_cast<uint64_t>(i));
  }
  kernels::Context ctx;
  OwnedTensor tensor(dtype, shape);
  const TensorView flat = tensor.view().Reshaped({size});
  for (int64_t begin = 0; begin < size; begin += kPeriod) {
    const int64_t count = std::min(kPeriod, size - begin);
    kernels::Cast(ctx, period.view().Rows(0, count), flat.Rows(begin, count));
  }
  return tensor;
}

OwnedTensor Widened(ConstTensorView tensor) {
  OwnedTensor values(DType::kFloat32, tensor.shape());
  kernels::Context ctx;
  kernels::Cast(ctx, tensor, values);
  return values;
}

}  // namespace sepia::tools
