// A picture of which keys the first queries of a run see: initial tokens, separators, neighbours.
#pragma once

#include <string>
#include <vector>

#include "trainer/settings.h"

namespace sepia::trainer {

// An SVG of the first positions of `tokens`, one sample of T tokens, for the first layer that is
// not dense (or the dense triangle), and a table with the kept share of every layer.
std::string DrawMask(const TrainSettings& settings, const std::vector<int32_t>& tokens);

}  // namespace sepia::trainer
