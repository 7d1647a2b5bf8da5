// A whole parameter (or its gradient) from the shards of a tensor group.
#pragma once

#include "base/buffer.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/parameters.h"

namespace sepia::model {

// On every rank. `local` is this rank's part, of any dtype. Collective over mesh.tensor().
OwnedTensor GatherWhole(kernels::Context& ctx, dist::Mesh& mesh, const ParamSpec& spec,
                        ConstTensorView local);

}  // namespace sepia::model
