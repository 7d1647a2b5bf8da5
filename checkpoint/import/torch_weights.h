// Weights in a file of torch.save: a state dict, name -> tensor.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/import/weight_file.h"

namespace sepia::checkpoint {

// Refuses anything but a flat dict of tensors. Throws BadData.
std::unique_ptr<WeightFile> OpenTorchWeights(const std::string& path);

}  // namespace sepia::checkpoint
