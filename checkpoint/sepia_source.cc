#include "checkpoint/sepia_source.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include <google/protobuf/text_format.h>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/import/hf_layout.h"
#include "checkpoint/reader.h"
#include "checkpoint/step_directories.h"
#include "model/model_config.pb.h"
#include "trainer/train_config.pb.h"

namespace sepia::checkpoint {
namespace {

// data.tokenizer of the run, where that file still is.
std::string TokenizerOfConfig(const std::string& config_text) {
  config::TrainConfig config;
  google::protobuf::TextFormat::Parser parser;
  parser.AllowUnknownField(true);
  parser.SetRecursionLimit(50);
  if (!parser.ParseFromString(config_text, &config)) return "";
  const std::string& tokenizer = config.data().tokenizer();
  return !tokenizer.empty() && FileExists(tokenizer) ? tokenizer : "";
}

class SepiaCheckpoint : public ModelSource {
 public:
  explicit SepiaCheckpoint(const std::string& step_dir) : reader_(step_dir) {
    config::ModelConfig config;
    reader_.FillModelConfig(&config);
    if (!HasPlausibleSizes(config)) {
      throw BadData(step_dir + "/MANIFEST.pb", -1, "the sizes of the model are missing or absurd");
    }
    for (const HfTensor& wanted : HfTensors(config)) {
      const StoredTensor& stored = reader_.Get(wanted.name, Role::kMaster);
      if (stored.shape != wanted.shape) {
        throw BadData(step_dir, -1,
                      fmt::format("tensor '{}' has shape {}, the model asks for {}", wanted.name,
                                  stored.shape, wanted.shape));
      }
      tensors_.push_back({wanted.name, stored.dtype, stored.shape});
    }
  }

  std::string_view format() const override { return "Sepia checkpoint"; }
  const std::string& path() const override { return reader_.path(); }
  void FillModelConfig(config::ModelConfig* config) const override {
    reader_.FillModelConfig(config);
  }
  std::span<const SourceTensor> tensors() const override { return tensors_; }
  const TrainState* train_state() const override { return reader_.train_state(); }
  std::string_view config_text() const override { return reader_.config_text(); }

  bool Has(Role role) const override {
    return std::all_of(tensors_.begin(), tensors_.end(), [&](const SourceTensor& tensor) {
      return reader_.Find(tensor.name, role) != nullptr;
    });
  }

  std::string tokenizer_path() const override {
    const std::string attached = reader_.AttachmentPath("tokenizer.json");
    return attached.empty() ? TokenizerOfConfig(reader_.config_text()) : attached;
  }

 protected:
  void Read(const SourceTensor& tensor, Role role, const Rectangle& part,
            TensorView out) const override {
    reader_.ReadPart(tensor.name, role, part, out);
  }
  void ReadEach(const SourceTensor& tensor, Role role,
                std::span<const PartTarget> parts) const override {
    reader_.ReadParts(tensor.name, role, parts);
  }

 private:
  CheckpointReader reader_;
  std::vector<SourceTensor> tensors_;
};

bool IsStepDirectory(const std::string& path) {
  return FileExists(path + "/MANIFEST.pb") || FileExists(path + "/COMMIT");
}

bool HoldsSteps(const std::string& path) {
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (ParseStepDirectoryName(entry.path().filename().string())) return true;
  }
  return false;
}

}  // namespace

std::optional<std::string> FindCheckpointRoot(const std::string& path) {
  if (!std::filesystem::is_directory(path) || IsStepDirectory(path)) return std::nullopt;
  if (HoldsSteps(path)) return path;
  const std::string in_run = path + "/checkpoints";
  if (std::filesystem::is_directory(in_run)) return in_run;
  return std::nullopt;
}

std::optional<std::string> FindStepDirectory(const std::string& path) {
  if (IsStepDirectory(path)) return path;
  const auto root = FindCheckpointRoot(path);
  if (!root) return std::nullopt;
  const auto newest = NewestCheckpoint(*root);
  if (!newest) throw BadData(*root, -1, "holds no checkpoint yet");
  return newest;
}

std::unique_ptr<ModelSource> OpenSepiaCheckpoint(const std::string& step_dir) {
  return std::make_unique<SepiaCheckpoint>(step_dir);
}

}  // namespace sepia::checkpoint
