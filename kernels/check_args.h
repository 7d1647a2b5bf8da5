// Argument checks that every op begins with. A failure is a bug in the caller (InternalError).
#pragma once

#include "base/check.h"
#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::kernels {

inline void CheckTensor(const ConstTensorView& tensor, const char* name, DType dtype,
                        const Shape& shape) {
  CHECK(tensor.shape() == shape && tensor.dtype() == dtype, "{} is {} {}, expected {} {}", name,
        DTypeName(tensor.dtype()), tensor.shape(), DTypeName(dtype), shape);
}

inline void CheckOptional(const ConstTensorView& tensor, const char* name, DType dtype,
                          const Shape& shape) {
  if (!tensor.empty()) CheckTensor(tensor, name, dtype, shape);
}

inline void CheckMatrix(const ConstTensorView& tensor, const char* name) {
  CHECK(tensor.rank() == 2, "{} is {}, expected a matrix", name, tensor.shape());
}

// The dtypes that activations and weights may have.
inline void CheckComputeDType(DType dtype, const char* name) {
  CHECK(dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16,
        "{} is {}, expected f32, bf16 or f16", name, DTypeName(dtype));
}

inline void CheckDevice(const Context& ctx) { CHECK_GE(ctx.num_threads, 1); }

// Which backend an op goes to. That its tensors live there is checked where their memory is
// touched: TensorView::data() on the host, cuda::Data() on the device.
inline bool OnCuda(const Context& ctx) { return ctx.device == Device::kCuda; }

}  // namespace sepia::kernels
