// The weight files of a folder: one file, or shards listed by an index.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/import/weight_file.h"

namespace sepia::checkpoint {

// Opens model.safetensors or every shard of model.safetensors.index.json; where there are none,
// pytorch_model.bin or the shards of pytorch_model.bin.index.json. Checked against the
// index: names are plain file names, every tensor is in exactly its file, nothing is missing,
// nothing is extra, total_size is right. Throws BadData.
std::vector<std::unique_ptr<WeightFile>> OpenWeightFiles(const std::string& folder);

}  // namespace sepia::checkpoint
