#include "checkpoint/gguf/gguf_source.h"

#include <algorithm>
#include <vector>

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "base/error.h"
#include "checkpoint/elements.h"
#include "checkpoint/gguf/gguf_file.h"
#include "checkpoint/gguf/gguf_layout.h"
#include "checkpoint/import/hf_layout.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kWholeTensor = int64_t{1} << 62;

class Metadata {
 public:
  explicit Metadata(const GgufFile& file) : file_(file) {}

  [[noreturn]] void Fail(const std::string& key, const std::string& reason) const {
    throw BadData(file_.path(), -1, fmt::format("{} {}", key, reason));
  }
  template <typename T>
  T Get(const std::string& key) const {
    const GgufValue* value = file_.Find(key);
    if (value == nullptr) Fail(key, "is missing");
    if (const T* typed = std::get_if<T>(value)) return *typed;
    Fail(key, "is of the wrong type");
  }
  int32_t Integer(const std::string& key, int64_t most) const {
    const auto value = Get<int64_t>("gptneox." + key);
    if (value < 1 || value > most) Fail(key, fmt::format("is {}, outside [1, {}]", value, most));
    return static_cast<int32_t>(value);
  }
  double Number(const std::string& key, double otherwise) const {
    return file_.Find(key) == nullptr ? otherwise : Get<double>(key);
  }

 private:
  const GgufFile& file_;
};

void FillFromKeys(const GgufFile& file, config::ModelConfig* config) {
  const Metadata keys(file);
  if (keys.Get<std::string_view>("general.architecture") != "gptneox") {
    keys.Fail("general.architecture", "is not 'gptneox'");
  }
  config->set_num_layers(keys.Integer("block_count", kMaxLayers));
  config->set_hidden_size(keys.Integer("embedding_length", kMaxWidth));
  config->set_num_heads(keys.Integer("attention.head_count", kMaxWidth));
  config->set_intermediate_size(keys.Integer("feed_forward_length", 16 * kMaxWidth));
  config->set_max_positions(keys.Integer("context_length", kMaxRows));
  if (config->hidden_size() % config->num_heads() != 0) {
    keys.Fail("gptneox.attention.head_count", "does not divide the embedding length");
  }
  const int head_size = config->hidden_size() / config->num_heads();
  const int rotary = keys.Integer("rope.dimension_count", head_size);
  if (rotary % 2 != 0) keys.Fail("gptneox.rope.dimension_count", "is odd");
  config->set_rotary_pct(static_cast<double>(rotary) / head_size);
  config->set_rotary_base(keys.Number("gptneox.rope.freq_base", 10000));
  config->set_layer_norm_eps(keys.Number("gptneox.attention.layer_norm_epsilon", 1e-5));
  if (!(config->rotary_base() > 1) || !(config->layer_norm_eps() > 0)) {
    keys.Fail("gptneox.rope.freq_base or .attention.layer_norm_epsilon", "is out of range");
  }
  config->set_parallel_residual(keys.Get<bool>("gptneox.use_parallel_residual"));
  config->set_activation(config::TANH_GELU);
  const GgufTensor* table = file.FindTensor("token_embd.weight");
  if (table == nullptr || table->shape.rank() != 2 || table->shape[0] > kMaxRows) {
    keys.Fail("token_embd.weight", "is missing or misshapen");
  }
  config->set_vocab_size(static_cast<int32_t>(table->shape[0]));
}

// The message says enough; protobuf would print its own to stderr.
class Silence : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int, google::protobuf::io::ColumnNumber, const std::string&) override {}
};

// What Sepia put in beside: the exact values and the attention. Sizes must be those of the keys.
void RefineFromSepia(const GgufFile& file, config::ModelConfig* config) {
  if (file.Find("sepia.model") == nullptr) return;
  const Metadata keys(file);
  config::ModelConfig stored;
  google::protobuf::TextFormat::Parser parser;
  Silence silence;
  parser.RecordErrorsTo(&silence);
  parser.SetRecursionLimit(50);
  if (!parser.ParseFromString(std::string(keys.Get<std::string_view>("sepia.model")), &stored)) {
    keys.Fail("sepia.model", "is no model description that this version knows");
  }
  const bool agrees = HasPlausibleSizes(stored) && stored.num_layers() == config->num_layers() &&
                      stored.hidden_size() == config->hidden_size() &&
                      stored.num_heads() == config->num_heads() &&
                      stored.intermediate_size() == config->intermediate_size() &&
                      stored.vocab_size() == config->vocab_size() &&
                      stored.parallel_residual() == config->parallel_residual();
  if (!agrees) keys.Fail("sepia.model", "contradicts the other keys");
  *config = stored;
}

class GgufModel : public ModelSource {
 public:
  explicit GgufModel(const std::string& path) : file_(path) {
    FillFromKeys(file_, &config_);
    RefineFromSepia(file_, &config_);
    if (file_.FindTensor("output.weight") == nullptr) config_.set_tie_embeddings(true);
    for (const HfTensor& wanted : HfTensors(config_)) {
      const GgufTensor* tensor = file_.FindTensor(GgufName(wanted.name));
      if (tensor == nullptr || tensor->shape != wanted.shape) {
        throw BadData(path, -1,
                      fmt::format("tensor '{}' is missing or has not the shape {}",
                                  GgufName(wanted.name), wanted.shape));
      }
      tensors_.push_back({wanted.name, tensor->dtype, tensor->shape});
    }
    if (tensors_.size() != file_.tensors().size()) {
      throw BadData(path, -1,
                    fmt::format("holds {} tensors, the model has {}", file_.tensors().size(),
                                tensors_.size()));
    }
  }

  std::string_view format() const override { return "GGUF file"; }
  const std::string& path() const override { return file_.path(); }
  void FillModelConfig(config::ModelConfig* config) const override { *config = config_; }
  std::span<const SourceTensor> tensors() const override { return tensors_; }
  bool Has(Role role) const override { return role == Role::kMaster || role == Role::kWeight; }
  std::string tokenizer_path() const override { return ""; }

 protected:
  void Read(const SourceTensor& tensor, Role, const Rectangle& part,
            TensorView out) const override {
    const GgufTensor& stored = *file_.FindTensor(GgufName(tensor.name));
    const int64_t size = DTypeSize(stored.dtype);
    int64_t begin = 0;  // of the block in the file
    for (const Rectangle& block : GgufOrder(tensor.name, tensor.shape, config_, kWholeTensor)) {
      const Rectangle common = Intersect(part, block);
      if (common.num_elements() > 0) {
        ForEachRun(common, block, part, [&](int64_t from, int64_t to, int64_t count) {
          WidenToFloats(
              stored.dtype,
              stored.bytes.subspan(static_cast<size_t>((begin + from) * size),
                                   static_cast<size_t>(count * size)),
              out.span<float>().subspan(static_cast<size_t>(to), static_cast<size_t>(count)));
        });
      }
      begin += block.num_elements();
    }
  }

 private:
  GgufFile file_;
  config::ModelConfig config_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace

std::unique_ptr<ModelSource> OpenGguf(const std::string& path) {
  return std::make_unique<GgufModel>(path);
}

}  // namespace sepia::checkpoint
