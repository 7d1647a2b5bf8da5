// What AdamW keeps of a parameter beside its gradient, in as little memory as exact results allow:
//
//   compute dtype   weight                  master             moments    bytes an element
//   FP32            f32: it is the master   none               2 x f32    12
//   FP16            f16                     f32                2 x f32    14
//   BF16            bf16                    i16: a remainder   2 x f32    12
//
// The fp32 master is the number that training goes on from, in every dtype; the weight is the
// master rounded to nearest, ties to even. How a master is held is known here and to AdamWUpdate.
//
// BF16. The weight w is the upper half of the fp32 number that the master x was rounded to. Of bits
// as integers, sign included,
//   x = (w << 16) + s,   -2^15 <= s <= 2^15,
// because rounding moves x by half a unit of the upper half at most, and carries as integers do: a
// subnormal into the normal numbers, a binade into the next, the largest finite numbers into
// infinity. -0 is w = 0x8000, s = 0. The lower half of x tells s, but for ties: s = -2^15 and 2^15
// have the same one, and both round to an even w. So the remainder is the lower half, and one more
// bit says that s is 2^15. exp_avg_sq, a mean of squares, has its sign to spare for that bit.
//
// Every master but NaN comes back bit by bit. NaN comes back as NaN. So does every second moment
// that is not negative; a negative one, which only damage can bring, becomes NaN, as its root
// would.
#pragma once

#include <cstdint>
#include <optional>

#include "base/tensor.h"

namespace sepia::kernels {

// Of one parameter, or any slice of one: views of equal numbers of elements on one device.
struct OptimizerState {
  TensorView weight;      // compute dtype
  TensorView master;      // of MasterDType; empty in FP32
  TensorView exp_avg;     // f32
  TensorView exp_avg_sq;  // f32; in BF16 its signs are the master's
};

OptimizerState Rows(const OptimizerState& state, int64_t begin, int64_t count);

// Of OptimizerState::master; none in FP32.
std::optional<DType> MasterDType(DType compute_dtype);

enum class StateRole : uint8_t { kMaster, kExpAvg, kExpAvgSq };

// The memory that holds the values of a role as they are and nothing else, so that it may be read
// and written directly; empty where there is none.
TensorView PlainValues(const OptimizerState& state, StateRole role);

// The values of a role, fp32 in host memory, from and to any device. Writing masters writes the
// weights as well; the other roles keep their values. Not for the inner loop.
void ReadValues(const OptimizerState& state, StateRole role, const TensorView& values);
void WriteValues(const OptimizerState& state, StateRole role, const ConstTensorView& values);

}  // namespace sepia::kernels
