// Checks of a finished pickle as a whole.
#pragma once

#include <optional>
#include <string>

#include "checkpoint/torch/pickle.h"

namespace sepia::checkpoint {

// What is wrong: nesting deeper than 64, a value that contains itself, a key that appears twice in
// a dict. Takes time linear in the number of values, however often they are shared.
std::optional<std::string> FindPickleTreeFault(const PickleValue& root);

}  // namespace sepia::checkpoint
