// A GPT-NeoX / DeepSpeed checkpoint directory: layer_*, mp_rank_* and [bf16_]zero_* files of any
// tensor-parallel and data-parallel size. Layout: docs/formats/neox.md.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// `folder` as FindNeoxFolder found it. Masters, moments and training state where the optimizer
// files are there, else the weights of the layer files. Role::kWeight always reads those.
std::unique_ptr<ModelSource> OpenNeoxFolder(const std::string& folder);

}  // namespace sepia::checkpoint
