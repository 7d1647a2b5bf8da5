#include "checkpoint/export/gguf.h"

#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/integer.h"
#include "base/log.h"
#include "checkpoint/export/hf_config.h"
#include "checkpoint/export/value_stream.h"
#include "checkpoint/export/verification.h"
#include "checkpoint/gguf/gguf_file.h"
#include "checkpoint/gguf/gguf_layout.h"
#include "checkpoint/gguf/gguf_source.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kBlockElements = 4 << 20;
constexpr size_t kMaxNameBytes = 64;  // GGML_MAX_NAME

// The bytes before the data.
class HeaderWriter {
 public:
  template <typename T>
  void Number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void String(std::string_view text) {
    Number<uint64_t>(text.size());
    text_ += text;
  }
  void Key(std::string_view key, GgufType type) {
    String(key);
    Number(type);
    ++num_keys_;
  }
  void Add(std::string_view key, std::string_view value) {
    Key(key, GgufType::kString);
    String(value);
  }
  void AddCount(std::string_view key, int64_t value) {
    Key(key, GgufType::kUint32);
    Number(static_cast<uint32_t>(value));
  }
  void AddFloat(std::string_view key, double value) {
    Key(key, GgufType::kFloat32);
    Number(static_cast<float>(value));
  }
  void AddBool(std::string_view key, bool value) {
    Key(key, GgufType::kBool);
    Number(static_cast<uint8_t>(value));
  }
  void BeginArray(std::string_view key, GgufType type, size_t count) {
    Key(key, GgufType::kArray);
    Number(type);
    Number<uint64_t>(count);
  }

  uint64_t num_keys() const { return num_keys_; }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  uint64_t num_keys_ = 0;
};

DType StoredType(const SourceTensor& tensor, DType dtype) {
  return tensor.shape.rank() == 1 ? DType::kFloat32 : dtype;
}

// LLAMA_FTYPE of the whole file.
uint32_t FileType(DType dtype) {
  return dtype == DType::kFloat32 ? 0 : dtype == DType::kFloat16 ? 1 : 32;
}

std::string Description(const config::ModelConfig& config) {
  if (!HasSparseAttention(config)) return "GPT-NeoX model exported by Sepia";
  return fmt::format(
      "GPT-NeoX model trained by Sepia with {} attention (window {}). Programs that read this file "
      "compute full attention: its sparse masks are NOT applied, and results differ.",
      config::AttentionConfig::Kind_Name(config.attention().kind()), config.attention().window());
}

void AddModelKeys(const config::ModelConfig& config, const GgufExportOptions& options,
                  HeaderWriter* header) {
  header->Add("general.architecture", "gptneox");
  header->Add("general.name", options.name);
  header->Add("general.description", Description(config));
  header->AddCount("general.file_type", FileType(options.dtype));
  header->AddCount("gptneox.context_length", config.max_positions());
  header->AddCount("gptneox.embedding_length", config.hidden_size());
  header->AddCount("gptneox.block_count", config.num_layers());
  header->AddCount("gptneox.feed_forward_length", config.intermediate_size());
  const int head_size = config.hidden_size() / config.num_heads();
  header->AddCount("gptneox.rope.dimension_count",
                   static_cast<int>(head_size * config.rotary_pct()));
  header->AddFloat("gptneox.rope.freq_base", config.rotary_base());
  header->AddCount("gptneox.attention.head_count", config.num_heads());
  header->AddBool("gptneox.use_parallel_residual", config.parallel_residual());
  header->AddFloat("gptneox.attention.layer_norm_epsilon", config.layer_norm_eps());
  config::ModelConfig kept = config;
  KeepHfFields(&kept);
  header->Add("sepia.model", kept.ShortDebugString());
}

void AddTokenizerKeys(const GgufTokenizer& tokenizer, HeaderWriter* header) {
  if (tokenizer.tokens.empty()) return;
  header->Add("tokenizer.ggml.model", "gpt2");
  // llama.cpp's name for the pre-tokeniser of GPT-2's pattern under which Pythia's hash is known.
  header->Add("tokenizer.ggml.pre", "olmo");
  header->BeginArray("tokenizer.ggml.tokens", GgufType::kString, tokenizer.tokens.size());
  for (const auto& token : tokenizer.tokens) header->String(token.text);
  header->BeginArray("tokenizer.ggml.token_type", GgufType::kInt32, tokenizer.tokens.size());
  for (const auto& token : tokenizer.tokens) header->Number(token.type);
  header->BeginArray("tokenizer.ggml.merges", GgufType::kString, tokenizer.merges.size());
  for (const std::string& merge : tokenizer.merges) header->String(merge);
  header->AddCount("tokenizer.ggml.bos_token_id", tokenizer.end_of_text);
  header->AddCount("tokenizer.ggml.eos_token_id", tokenizer.end_of_text);
  header->AddCount("tokenizer.ggml.unknown_token_id", tokenizer.end_of_text);
  header->AddCount("tokenizer.ggml.padding_token_id", tokenizer.padding);
  header->AddBool("tokenizer.ggml.add_bos_token", false);
}

int64_t Aligned(int64_t offset) { return RoundUp(offset, kGgufAlignment); }

struct Layout {
  std::string header;            // padded
  std::vector<int64_t> offsets;  // of each tensor in the data, then the end
};

Layout PlanFile(const ModelSource& source, const config::ModelConfig& config,
                const GgufExportOptions& options) {
  HeaderWriter keys;
  AddModelKeys(config, options, &keys);
  AddTokenizerKeys(options.tokenizer, &keys);
  HeaderWriter file;
  file.Number(uint32_t{0x46554747});  // "GGUF"
  file.Number(kGgufVersion);
  file.Number<uint64_t>(source.tensors().size());
  file.Number<uint64_t>(keys.num_keys());
  std::string text = file.text() + keys.text();
  Layout layout;
  int64_t offset = 0;
  for (const SourceTensor& tensor : source.tensors()) {
    const DType dtype = StoredType(tensor, options.dtype);
    HeaderWriter info;
    const std::string name = GgufName(tensor.name);
    CHECK_LT(name.size(), kMaxNameBytes);
    info.String(name);
    info.Number(static_cast<uint32_t>(tensor.shape.rank()));
    for (int d = tensor.shape.rank(); d-- > 0;) {
      info.Number(static_cast<uint64_t>(tensor.shape[d]));
    }
    info.Number(GgufTensorType(dtype));
    info.Number(static_cast<uint64_t>(offset));
    text += info.text();
    layout.offsets.push_back(offset);
    offset = Aligned(offset + tensor.shape.num_elements() * DTypeSize(dtype));
  }
  layout.offsets.push_back(offset);
  text.resize(static_cast<size_t>(Aligned(static_cast<int64_t>(text.size()))), '\0');
  layout.header = std::move(text);
  return layout;
}

void CheckTokenizer(const GgufTokenizer& tokenizer, const config::ModelConfig& config) {
  const auto count = static_cast<int64_t>(tokenizer.tokens.size());
  if (count == 0) {
    LogWarn("the GGUF file gets no tokenizer: llama.cpp needs one to read text");
  } else if (count != config.vocab_size()) {
    throw UserError(fmt::format("the tokenizer has {} tokens, the model {}: GGUF wants as many",
                                count, config.vocab_size()));
  }
}

void WarnAboutDifferences(const config::ModelConfig& config) {
  if (HasSparseAttention(config)) LogWarn("{}", Description(config));
  if (config.activation() != config::TANH_GELU) {
    LogInfo("llama.cpp computes the tanh form of GELU; this model's is the exact one");
  }
}

}  // namespace

void ExportGguf(const ModelSource& source, const std::string& path,
                const GgufExportOptions& options) {
  if (FileExists(path)) throw UserError(fmt::format("{} exists; give a new file", path));
  config::ModelConfig config;
  source.FillModelConfig(&config);
  CheckTokenizer(options.tokenizer, config);
  WarnAboutDifferences(config);
  const Layout layout = PlanFile(source, config, options);
  AtomicFile target(path);
  File& file = target.file();
  const auto data = static_cast<int64_t>(layout.header.size());
  file.Preallocate(data + layout.offsets.back());
  file.WriteAt(0, std::as_bytes(std::span(layout.header)));
  for (size_t t = 0; t < source.tensors().size(); ++t) {
    const SourceTensor& tensor = source.tensors()[t];
    const DType dtype = StoredType(tensor, options.dtype);
    const auto parts = GgufOrder(tensor.name, tensor.shape, config, kBlockElements);
    ForEachPart(source, tensor, Role::kMaster, dtype, parts, [&](const ValueBlock& block) {
      file.WriteAt(data + layout.offsets[t] + block.begin * DTypeSize(dtype), block.bytes);
    });
  }
  const auto written = OpenGguf(file.path());
  CheckSameModel(source, *written);
  VerifyTensors(source, *written, path,
                [&](const SourceTensor& tensor) { return StoredType(tensor, options.dtype); });
  target.Commit();
}

}  // namespace sepia::checkpoint
