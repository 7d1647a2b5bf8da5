// The files of one GPT-NeoX / DeepSpeed checkpoint directory, opened and told apart.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/torch/torch_file.h"

namespace sepia::checkpoint {

// A tensor and the file that it is in.
struct TensorInFile {
  const TorchFile* file = nullptr;
  const TorchTensor* tensor = nullptr;
};

// One tensor-parallel rank.
struct NeoxRankFiles {
  std::unique_ptr<TorchFile> states;                   // mp_rank_XX_model_states.pt; may be null
  std::vector<std::unique_ptr<TorchFile>> layers;      // layer_KK-model_XX-model_states.pt
  std::vector<std::unique_ptr<TorchFile>> optimizers;  // [bf16_]zero_pp_rank_D_mp_rank_XX, by D
  // Weights by "layer.key", out of the layer files or of the module in mp_rank.
  std::map<std::string, TensorInFile> weights;
};

// Every rank, in order. Throws BadData for missing files: ranks, layers of a rank, data ranks.
std::vector<NeoxRankFiles> OpenNeoxFiles(const std::string& folder);

// The directory that holds the files: `path`, or path/<name in path/latest>. Nothing when `path` is
// no such checkpoint. Throws BadData when `latest` leads nowhere.
std::optional<std::string> FindNeoxFolder(const std::string& path);

}  // namespace sepia::checkpoint
