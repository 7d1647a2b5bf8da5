#include "checkpoint/import/hf_folder.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/import/hf_config.h"
#include "checkpoint/import/hf_layout.h"
#include "checkpoint/import/weight_index.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

// Where a tensor lies, under its name there.
struct Place {
  const WeightFile* file = nullptr;
  SourceTensor stored;
};

// What the SepLLM authors' class calls its trunk.
constexpr std::string_view kSepllmPrefix = "sepllm_gpt_neox.";

// Parameters under canonical names. Accepted besides those: names without the "gpt_neox." prefix
// (files of the bare GPTNeoXModel; all or none), names with "sepllm_gpt_neox." instead, and the
// head as "lm_head.weight" (transformers 5).
class NameTable {
 public:
  explicit NameTable(std::span<const std::unique_ptr<WeightFile>> files) {
    for (const auto& file : files) {
      for (const SourceTensor& tensor : file->tensors()) {
        if (!IsHfBuffer(tensor.name)) Add(*file, tensor);
      }
    }
  }

  std::map<std::string, Place> Take() { return std::move(places_); }

 private:
  void Add(const WeightFile& file, const SourceTensor& tensor) {
    std::string name = tensor.name;
    if (name.starts_with(kSepllmPrefix)) name = name.substr(std::strlen("sepllm_"));
    if (name == kHfHead || name == "lm_head.weight") {
      name = kHfHead;
    } else {
      const bool prefixed = name.starts_with(kHfPrefix);
      std::string& example = prefixed ? with_prefix_ : without_prefix_;
      if (example.empty()) example = name;
      if (!with_prefix_.empty() && !without_prefix_.empty()) {
        throw BadData(
            file.path(), -1,
            fmt::format("mixed name prefixes: '{}' and '{}'", with_prefix_, without_prefix_),
            "either all names or none start with 'gpt_neox.'");
      }
      if (!prefixed) name.insert(0, kHfPrefix);
    }
    if (!places_.emplace(name, Place{&file, tensor}).second) {
      throw BadData(file.path(), -1, fmt::format("tensor '{}' is stored twice", name));
    }
  }

  std::map<std::string, Place> places_;
  std::string with_prefix_;
  std::string without_prefix_;
};

bool IsTransposed(const Shape& a, const Shape& b) {
  return a.rank() == 2 && b.rank() == 2 && a[0] == b[1] && a[1] == b[0];
}

void CheckTensor(const Place& place, const HfTensor& wanted) {
  const SourceTensor& stored = place.stored;
  if (stored.shape != wanted.shape) {
    throw BadData(place.file->path(), -1,
                  fmt::format("tensor '{}' has shape {}, config.json asks for {}", wanted.name,
                              stored.shape, wanted.shape),
                  IsTransposed(stored.shape, wanted.shape)
                      ? "it is transposed: linear weights are stored as [out, in]"
                      : "config.json and weights are of different models");
  }
  if (!IsFloating(stored.dtype)) {
    throw BadData(place.file->path(), -1,
                  fmt::format("tensor '{}' holds {}, not floating-point numbers", wanted.name,
                              DTypeName(stored.dtype)));
  }
}

class HfFolder : public ModelSource {
 public:
  explicit HfFolder(const std::string& path) : path_(path) {
    ReadHfConfig(path + "/config.json", &config_);
    files_ = OpenWeightFiles(path);
    places_ = NameTable(files_).Take();
    if (config_.tie_embeddings()) DropTiedHead();
    const std::vector<HfTensor> wanted = HfTensors(config_);
    for (const HfTensor& tensor : wanted) {
      const auto place = places_.find(tensor.name);
      if (place == places_.end()) {
        throw BadData(path, -1, fmt::format("tensor '{}' is missing", tensor.name),
                      "config.json and weights are of different models, or a file is incomplete");
      }
      CheckTensor(place->second, tensor);
      tensors_.push_back({tensor.name, place->second.stored.dtype, tensor.shape});
    }
    RefuseExtras();
  }

  std::string_view format() const override { return "Hugging Face folder"; }
  const std::string& path() const override { return path_; }
  void FillModelConfig(config::ModelConfig* config) const override { *config = config_; }
  std::span<const SourceTensor> tensors() const override { return tensors_; }
  bool Has(Role role) const override { return role == Role::kMaster || role == Role::kWeight; }

  std::string tokenizer_path() const override {
    const std::string tokenizer = path_ + "/tokenizer.json";
    return FileExists(tokenizer) ? tokenizer : "";
  }

 protected:
  void Read(const SourceTensor& tensor, Role, const Rectangle& part,
            TensorView out) const override {
    const Place& place = places_.at(tensor.name);
    place.file->Read(place.stored.name, part, out);
  }

 private:
  // Some writers store the tied head as well; it must then be the embedding.
  void DropTiedHead() {
    const auto head = places_.find(std::string(kHfHead));
    const auto embedding = places_.find(std::string(kHfEmbedding));
    if (head == places_.end() || embedding == places_.end()) return;
    CheckTensor(head->second, {head->first, embedding->second.stored.shape});
    CheckTensor(embedding->second, {embedding->first, embedding->second.stored.shape});
    if (!SameValues(head->second, embedding->second)) {
      throw BadData(head->second.file->path(), -1,
                    fmt::format("'{}' differs from the embedding although config.json ties them",
                                head->second.stored.name),
                    "set tie_word_embeddings to false if the head is a matrix of its own");
    }
    places_.erase(head);
  }

  static bool SameValues(const Place& a, const Place& b) {
    constexpr int64_t kBlock = 1 << 18;
    std::vector<float> values_a;
    std::vector<float> values_b;
    for (const Rectangle& part : SplitContiguously(Rectangle::Whole(a.stored.shape), kBlock)) {
      const auto size = static_cast<size_t>(part.num_elements());
      values_a.resize(size);
      values_b.resize(size);
      a.file->Read(a.stored.name, part, TensorView::Of(std::span(values_a), part.extent));
      b.file->Read(b.stored.name, part, TensorView::Of(std::span(values_b), part.extent));
      if (std::memcmp(values_a.data(), values_b.data(), size * sizeof(float)) != 0) return false;
    }
    return true;
  }

  void RefuseExtras() const {
    for (const auto& [name, place] : places_) {
      const bool known =
          std::binary_search(tensors_.begin(), tensors_.end(), SourceTensor{name, {}, {}},
                             [](const auto& a, const auto& b) { return a.name < b.name; });
      if (!known) {
        throw BadData(place.file->path(), -1,
                      fmt::format("unexpected tensor '{}'", place.stored.name),
                      "config.json and weights are of different models");
      }
    }
  }

  std::string path_;
  config::ModelConfig config_;
  std::vector<std::unique_ptr<WeightFile>> files_;
  std::map<std::string, Place> places_;  // by canonical name
  std::vector<SourceTensor> tensors_;
};

}  // namespace

bool LooksLikeHfFolder(const std::string& path) {
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json",
                           "pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (FileExists(path + "/" + name)) return true;
  }
  return false;
}

std::unique_ptr<ModelSource> OpenHfFolder(const std::string& path) {
  return std::make_unique<HfFolder>(path);
}

}  // namespace sepia::checkpoint
