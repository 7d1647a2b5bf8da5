// From a run-time DType to the C++ type of the elements.
#pragma once

#include "base/check.h"
#include "base/dtype.h"

namespace sepia::kernels::cpu {

// fn(T{}) with T = float, BFloat16 or Float16.
template <typename Fn>
void DispatchCompute(DType dtype, const Fn& fn) {
  switch (dtype) {
    case DType::kFloat32: return fn(float{});
    case DType::kBFloat16: return fn(BFloat16{});
    case DType::kFloat16: return fn(Float16{});
    default: CHECK(false, "{} is no compute dtype", DTypeName(dtype));
  }
}

}  // namespace sepia::kernels::cpu
