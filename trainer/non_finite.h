// Where a gradient that is not a number came from.
#pragma once

#include <string>

#include "dist/communicator.h"
#include "model/gpt_neox.h"

namespace sepia::trainer {

// Hugging Face name of the first parameter whose gradient on this rank, before the sum over ranks,
// has an element that is not finite; empty when all are.
std::string FirstNonFiniteGradient(model::GptNeox& model);

// "gpt_neox.x.weight on rank 2 (on node1)" of the first rank that has one; `own` is this rank's.
// Empty when none has. Collective.
std::string NonFiniteOrigin(dist::Communicator& world, const std::string& own);

}  // namespace sepia::trainer
