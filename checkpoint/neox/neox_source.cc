#include "checkpoint/neox/neox_source.h"

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/import/hf_layout.h"
#include "checkpoint/neox/neox_config.h"
#include "checkpoint/neox/neox_files.h"
#include "checkpoint/neox/neox_layout.h"
#include "checkpoint/neox/neox_optimizer.h"
#include "checkpoint/neox/neox_state.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

// The part of `a` within `b`, counted from the beginning of `b`.
Rectangle Within(const Rectangle& a, const Rectangle& b) {
  Rectangle common = Intersect(a, b);
  for (size_t d = 0; d < common.offset.size(); ++d) common.offset[d] -= b.offset[d];
  return common;
}

class NeoxFolder : public ModelSource {
 public:
  explicit NeoxFolder(const std::string& path) : path_(path), ranks_(OpenNeoxFiles(path)) {
    const std::vector<std::string> configs = FindNeoxConfigs(path);
    if (configs.empty()) {
      throw BadData(path, -1, "the run's YAML config is missing",
                    "copy it to configs/ in this directory: the number of heads and the rotary "
                    "settings are nowhere else");
    }
    keys_ = ReadNeoxConfigs(configs);
    FillNeoxModelConfig(keys_, configs.front(), &config_);
    config_.set_vocab_size(VocabularySize());
    for (NeoxTensor& tensor : NeoxTensors(config_)) AddTensor(std::move(tensor));
    std::sort(tensors_.begin(), tensors_.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    RefuseExtras();
    if (!ranks_[0].optimizers.empty()) OpenOptimizers();
  }

  std::string_view format() const override { return "GPT-NeoX checkpoint"; }
  const std::string& path() const override { return path_; }
  void FillModelConfig(config::ModelConfig* config) const override { *config = config_; }
  std::span<const SourceTensor> tensors() const override { return tensors_; }
  bool Has(Role role) const override {
    return role == Role::kMaster || role == Role::kWeight || !optimizers_.empty();
  }
  std::string tokenizer_path() const override { return ""; }
  const TrainState* train_state() const override { return state_ ? &*state_ : nullptr; }

 protected:
  void Read(const SourceTensor& wanted, Role role, const Rectangle& part,
            TensorView out) const override {
    const NeoxTensor& tensor = layout_.at(wanted.name);
    const std::span<float> values = out.span<float>();
    const bool is_cut = tensor.merge == TensorMerge::kRows || tensor.merge == TensorMerge::kColumns;
    if (is_cut) return ReadCut(tensor, role, part, values);
    const bool is_moment = role == Role::kExpAvg || role == Role::kExpAvgSq;
    ReadReplicas(tensor, role, part, values, tensor.merge == TensorMerge::kMean || is_moment);
  }

 private:
  int num_ranks() const { return static_cast<int>(ranks_.size()); }

  int32_t VocabularySize() const {
    const auto found = ranks_[0].weights.find("0.word_embeddings.weight");
    if (found == ranks_[0].weights.end()) {
      throw BadData(path_, -1, "word_embeddings.weight is missing",
                    "the layer_00-* files or the module in mp_rank_00 hold it");
    }
    const Shape& shape = found->second.tensor->shape;
    const int64_t limit = kMaxRows / num_ranks();
    if (shape.rank() != 2 || shape[0] < 1 || shape[0] > limit) {
      throw BadData(found->second.file->path(), -1,
                    fmt::format("word_embeddings.weight has shape {}", shape));
    }
    return static_cast<int32_t>(shape[0] * num_ranks());
  }

  // Finds the name that this version of GPT-NeoX uses, then how the head is cut ("row" and "column"
  // of output-layer-parallelism), and checks every rank's part.
  void AddTensor(NeoxTensor tensor) {
    const auto& weights = ranks_[0].weights;
    const std::string alternative = std::to_string(tensor.layer) + "." + tensor.alternative_key;
    if (!tensor.alternative_key.empty() && !weights.contains(tensor.QualifiedName()) &&
        weights.contains(alternative)) {
      tensor.key = tensor.alternative_key;
    }
    const std::string name = tensor.QualifiedName();
    CheckDivides(tensor);
    if (tensor.hf_name == kHfHead && weights.contains(name) && num_ranks() > 1 &&
        weights.at(name).tensor->shape == ColumnsOfHead(tensor)) {
      tensor.merge = TensorMerge::kColumns;
    }
    for (int r = 0; r < num_ranks(); ++r) {
      const auto found = ranks_[static_cast<size_t>(r)].weights.find(name);
      if (found == ranks_[static_cast<size_t>(r)].weights.end()) {
        throw BadData(path_, -1,
                      fmt::format("tensor '{}' of tensor-parallel rank {} is missing", name, r),
                      "a layer file is missing, or the YAML config is of another model");
      }
      CheckPart(*found->second.file, *found->second.tensor, name,
                NeoxPart(tensor, r, num_ranks()).extent);
    }
    tensors_.push_back({tensor.hf_name, weights.at(name).tensor->storage->dtype, tensor.shape});
    layout_.emplace(tensor.hf_name, std::move(tensor));
  }

  Shape ColumnsOfHead(const NeoxTensor& head) const {
    return {head.shape[0], head.shape[1] / num_ranks()};
  }

  void CheckDivides(const NeoxTensor& tensor) const {
    const bool divides = tensor.merge == TensorMerge::kRows ? tensor.shape[0] % num_ranks() == 0
                         : tensor.merge == TensorMerge::kColumns
                             ? tensor.shape[1] % num_ranks() == 0
                             : true;
    if (divides && config_.num_heads() % num_ranks() == 0) return;
    throw BadData(path_, -1,
                  fmt::format("{} tensor-parallel ranks do not divide {} {}", num_ranks(),
                              tensor.hf_name, tensor.shape));
  }

  static void CheckPart(const TorchFile& file, const TorchTensor& tensor, const std::string& name,
                        const Shape& wanted) {
    if (tensor.shape != wanted) {
      throw BadData(file.path(), -1,
                    fmt::format("tensor '{}' has shape {}, the YAML config asks for {}", name,
                                tensor.shape, wanted),
                    "config and weights are of different models");
    }
    if (!IsFloating(tensor.storage->dtype)) {
      throw BadData(file.path(), -1,
                    fmt::format("tensor '{}' holds {}, not floating-point numbers", name,
                                DTypeName(tensor.storage->dtype)));
    }
  }

  void RefuseExtras() const {
    std::map<std::string, const NeoxTensor*> known;
    for (const auto& [hf_name, tensor] : layout_) known[tensor.QualifiedName()] = &tensor;
    for (const NeoxRankFiles& rank : ranks_) {
      for (const auto& [name, place] : rank.weights) {
        if (known.contains(name)) continue;
        throw BadData(place.file->path(), -1, fmt::format("unexpected tensor '{}'", name),
                      "the YAML config is of another model");
      }
    }
  }

  void OpenOptimizers() {
    for (int r = 0; r < num_ranks(); ++r) {
      const NeoxRankFiles& files = ranks_[static_cast<size_t>(r)];
      const NeoxOptimizer& optimizer = optimizers_.emplace_back(files);
      for (const auto& [hf_name, tensor] : layout_) {
        const auto found = optimizer.shapes().find(tensor.QualifiedName());
        const Shape wanted = NeoxPart(tensor, r, num_ranks()).extent;
        if (found != optimizer.shapes().end() && found->second == wanted) continue;
        throw BadData(
            files.optimizers.front()->path(), -1,
            fmt::format("the optimizer has no '{}' of shape {}", tensor.QualifiedName(), wanted));
      }
      if (optimizer.shapes().size() != layout_.size()) {
        throw BadData(files.optimizers.front()->path(), -1,
                      fmt::format("the optimizer has {} tensors, the model {}",
                                  optimizer.shapes().size(), layout_.size()));
      }
    }
    for (SourceTensor& tensor : tensors_) tensor.dtype = DType::kFloat32;  // the masters'
    state_ = ReadNeoxState(ranks_[0], keys_);
  }

  // One rank's elements `part`, counted within its own tensor.
  void ReadLocal(int rank, const NeoxTensor& tensor, Role role, const Rectangle& part,
                 std::span<float> out) const {
    const auto r = static_cast<size_t>(rank);
    if (role != Role::kWeight && !optimizers_.empty()) {
      return optimizers_[r].Read(tensor.QualifiedName(), role, part, out);
    }
    const TensorInFile& place = ranks_[r].weights.at(tensor.QualifiedName());
    place.file->ReadFloats(*place.tensor, part, out);
  }

  void ReadCut(const NeoxTensor& tensor, Role role, const Rectangle& part,
               std::span<float> out) const {
    std::vector<float> values;
    for (int r = 0; r < num_ranks(); ++r) {
      const Rectangle held = NeoxPart(tensor, r, num_ranks());
      const Rectangle common = Intersect(part, held);
      if (common.num_elements() == 0) continue;
      values.resize(static_cast<size_t>(common.num_elements()));
      ReadLocal(r, tensor, role, Within(part, held), values);
      ForEachRun(common, common, part, [&](int64_t from, int64_t to, int64_t count) {
        std::copy_n(values.begin() + from, count, out.begin() + to);
      });
    }
  }

  // Adds in fp32 in the order of the ranks; the mean divides at the end.
  void ReadReplicas(const NeoxTensor& tensor, Role role, const Rectangle& part,
                    std::span<float> out, bool is_mean) const {
    std::vector<float> values(out.size());
    ReadLocal(0, tensor, role, part, out);
    for (int r = 1; r < num_ranks(); ++r) {
      ReadLocal(r, tensor, role, part, values);
      for (size_t i = 0; i < out.size(); ++i) out[i] += values[i];
    }
    if (!is_mean) return;
    for (float& value : out) value /= static_cast<float>(num_ranks());
  }

  std::string path_;
  std::vector<NeoxRankFiles> ranks_;
  JsonObject keys_;
  config::ModelConfig config_;
  std::vector<SourceTensor> tensors_;
  std::map<std::string, NeoxTensor> layout_;  // by HF name
  std::vector<NeoxOptimizer> optimizers_;     // by rank; empty for weights alone
  std::optional<TrainState> state_;
};

}  // namespace

std::unique_ptr<ModelSource> OpenNeoxFolder(const std::string& folder) {
  return std::make_unique<NeoxFolder>(folder);
}

}  // namespace sepia::checkpoint
