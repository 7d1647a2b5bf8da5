// What the ranks of a tensor group put together: a whole parameter (or its gradient) from their
// shards, gradients of which each rank has a part.
#pragma once

#include <span>

#include "base/buffer.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/parameters.h"

namespace sepia::model {

// On every rank, in host memory. `local` is this rank's part, of any dtype. Collective over
// mesh.tensor().
OwnedTensor GatherWhole(kernels::Context& ctx, dist::Mesh& mesh, const ParamSpec& spec,
                        ConstTensorView local);

// Adds up small fp32 tensors over tensor ranks, in place, in one message. Keeps the message's
// memory for the next call.
class TensorRankSums {
 public:
  // Collective.
  void Add(kernels::Context& ctx, dist::Mesh& mesh, std::span<const TensorView> parts);

 private:
  OwnedTensor message_;
};

}  // namespace sepia::model
