// What several ranks hold must be equal bit for bit: found by comparing checksums, so that a bit
// that flips in one machine's memory does not stay unseen.
#pragma once

#include <cstdint>

#include "dist/mesh.h"
#include "model/gpt_neox.h"
#include "trainer/optimizer.h"

namespace sepia::trainer {

// Compares over data ranks the weights and, without ZeRO, the optimizer states; over tensor ranks
// the parameters that all of them hold. Throws Error(kNumerical), as dist::Agree does, naming the
// rank that differs: of two ranks both, for nothing tells which one is wrong. Collective.
void CheckReplicas(dist::Mesh& mesh, model::GptNeox& model, const AdamW& optimizer, int zero_stage,
                   int64_t step);

}  // namespace sepia::trainer
