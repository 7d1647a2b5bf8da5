#include "checkpoint/import/hf_config.h"

#include <optional>

#include "base/error.h"
#include "checkpoint/import/hf_layout.h"
#include "checkpoint/json.h"
#include "checkpoint/neox/neox_config.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

// Typed access to one object of the file; null counts as absent, as in transformers.
class Fields {
 public:
  Fields(const std::string& path, const JsonObject& object, std::string prefix = "")
      : path_(path), object_(object), prefix_(std::move(prefix)) {}

  [[noreturn]] void Fail(std::string_view key, const std::string& reason,
                         const std::string& remedy = "") const {
    throw BadData(path_, -1, fmt::format("{}{} {}", prefix_, key, reason), remedy);
  }

  const JsonValue* Find(std::string_view key) const {
    const JsonValue* value = FindKey(object_, key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  template <typename T>
  const T* Get(std::string_view key, std::string_view type) const {
    const JsonValue* value = Find(key);
    if (value == nullptr) return nullptr;
    const T* typed = value->As<T>();
    if (typed == nullptr) Fail(key, fmt::format("is {}, not {}", value->TypeName(), type));
    return typed;
  }

  int32_t Integer(std::string_view key, int64_t least, int64_t most) const {
    const JsonValue* value = Find(key);
    if (value == nullptr) Fail(key, "is missing", "this is no complete GPT-NeoX config.json");
    return CheckedInteger(key, *value, least, most);
  }

  std::optional<double> Number(std::string_view key) const {
    const JsonValue* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* integer = value->As<int64_t>()) return static_cast<double>(*integer);
    if (const auto* number = value->As<double>()) return *number;
    Fail(key, fmt::format("is {}, not a number", value->TypeName()));
  }

  bool Boolean(std::string_view key, bool otherwise) const {
    const bool* value = Get<bool>(key, "a boolean");
    return value == nullptr ? otherwise : *value;
  }

  template <typename Repeated>
  void Integers(std::string_view key, int64_t least, Repeated* out) const {
    const JsonArray* list = Get<JsonArray>(key, "a list");
    if (list == nullptr) return;
    for (const JsonValue& value : *list) out->Add(CheckedInteger(key, value, least, INT32_MAX));
  }

  const std::string& path() const { return path_; }
  const JsonObject& object() const { return object_; }

 private:
  int32_t CheckedInteger(std::string_view key, const JsonValue& value, int64_t least,
                         int64_t most) const {
    const int64_t* integer = value.As<int64_t>();
    if (integer == nullptr) {
      Fail(key, fmt::format("is {}, not an integer in [{}, {}]", value.TypeName(), least, most));
    }
    if (*integer < least || *integer > most) {
      Fail(key, fmt::format("is {}, outside [{}, {}]", *integer, least, most));
    }
    return static_cast<int32_t>(*integer);
  }

  const std::string& path_;
  const JsonObject& object_;
  std::string prefix_;
};

void ReadSizes(const Fields& fields, config::ModelConfig* config) {
  config->set_vocab_size(fields.Integer("vocab_size", 1, kMaxRows));
  config->set_hidden_size(fields.Integer("hidden_size", 1, kMaxWidth));
  config->set_num_layers(fields.Integer("num_hidden_layers", 1, kMaxLayers));
  config->set_num_heads(fields.Integer("num_attention_heads", 1, kMaxWidth));
  config->set_intermediate_size(fields.Integer("intermediate_size", 1, 16 * kMaxWidth));
  config->set_max_positions(fields.Integer("max_position_embeddings", 1, kMaxRows));
  if (config->hidden_size() % config->num_heads() != 0) {
    fields.Fail("num_attention_heads", fmt::format("is {}, which does not divide hidden_size {}",
                                                   config->num_heads(), config->hidden_size()));
  }
}

// One value under the names that transformers versions gave it; they may not contradict.
double OneOf(const Fields& fields, std::initializer_list<std::string_view> keys,
             std::optional<double> nested, double otherwise) {
  std::optional<double> value = nested;
  for (const std::string_view key : keys) {
    const std::optional<double> candidate = fields.Number(key);
    if (candidate && value && *candidate != *value) {
      fields.Fail(key, fmt::format("is {}, but another spelling of it says {}", *candidate, *value),
                  "keep one of the two");
    }
    if (candidate) value = candidate;
  }
  return value.value_or(otherwise);
}

void RefuseRopeScaling(const Fields& parent, std::string_view key) {
  const JsonObject* rope = parent.Get<JsonObject>(key, "an object");
  if (rope == nullptr) return;
  const Fields fields(parent.path(), *rope, std::string(key) + ".");
  for (const std::string_view type_key : {"rope_type", "type"}) {
    const std::string* type = fields.Get<std::string>(type_key, "a string");
    if (type != nullptr && *type != "default") {
      fields.Fail(type_key, fmt::format("is '{}': rope scaling is not supported", *type));
    }
  }
  if (fields.Find("factor") != nullptr) fields.Fail("factor", "asks for unsupported rope scaling");
}

void ReadRotary(const Fields& fields, config::ModelConfig* config) {
  RefuseRopeScaling(fields, "rope_scaling");
  RefuseRopeScaling(fields, "rope_parameters");
  std::optional<double> pct;
  std::optional<double> base;
  if (const auto* rope = fields.Get<JsonObject>("rope_parameters", "an object")) {
    const Fields nested(fields.path(), *rope, "rope_parameters.");
    pct = nested.Number("partial_rotary_factor");
    base = nested.Number("rope_theta");
  }
  // transformers' defaults for this class.
  config->set_rotary_pct(OneOf(fields, {"rotary_pct", "partial_rotary_factor"}, pct, 0.25));
  config->set_rotary_base(OneOf(fields, {"rotary_emb_base", "rope_theta"}, base, 10000));
  if (!(config->rotary_pct() > 0 && config->rotary_pct() <= 1)) {
    fields.Fail("rotary_pct", fmt::format("is {}, outside (0, 1]", config->rotary_pct()));
  }
  if (!(config->rotary_base() > 1)) {
    fields.Fail("rotary_emb_base", fmt::format("is {}, not above 1", config->rotary_base()));
  }
  const int head_size = config->hidden_size() / config->num_heads();
  const int rotary_size = static_cast<int>(head_size * config->rotary_pct());
  if (rotary_size == 0 || rotary_size % 2 != 0) {
    fields.Fail("rotary_pct", fmt::format("is {}: it turns {} of {} head dimensions, which must be "
                                          "an even number above 0",
                                          config->rotary_pct(), rotary_size, head_size));
  }
}

void ReadActivation(const Fields& fields, config::ModelConfig* config) {
  const std::string* name = fields.Get<std::string>("hidden_act", "a string");
  if (name == nullptr || *name == "gelu") {
    config->set_activation(config::ERF_GELU);
  } else if (*name == "gelu_new" || *name == "gelu_fast" || *name == "gelu_pytorch_tanh") {
    config->set_activation(config::TANH_GELU);
  } else {
    fields.Fail("hidden_act", fmt::format("is '{}'", *name),
                "Sepia computes gelu, gelu_new, gelu_fast and gelu_pytorch_tanh");
  }
}

void ReadAttention(const Fields& parent, config::ModelConfig* config) {
  const JsonObject* object = parent.Get<JsonObject>("sepllm", "an object");
  if (object == nullptr) return;
  const Fields fields(parent.path(), *object, "sepllm.");
  for (const auto& [key, value] : *object) {
    if (config::AttentionConfig::descriptor()->FindFieldByName(key) == nullptr) {
      fields.Fail(key, "is unknown", "this folder needs a newer version of Sepia");
    }
  }
  config::AttentionConfig* attention = config->mutable_attention();
  const std::string* name = fields.Get<std::string>("kind", "a string");
  config::AttentionConfig::Kind kind;
  if (name == nullptr || !config::AttentionConfig::Kind_Parse(*name, &kind)) {
    fields.Fail("kind", fmt::format("is '{}'", name == nullptr ? "" : *name),
                "use FULL, SEP, STREAMING or FIXED_STRIDE");
  }
  attention->set_kind(kind);
  if (fields.Find("window")) attention->set_window(fields.Integer("window", 1, kMaxRows));
  if (fields.Find("num_initial")) {
    attention->set_num_initial(fields.Integer("num_initial", 0, kMaxRows));
  }
  if (fields.Find("stride")) attention->set_stride(fields.Integer("stride", 1, kMaxRows));
  fields.Integers("separator_ids", 0, attention->mutable_separator_ids());
  fields.Integers("full_layers", -kMaxLayers, attention->mutable_full_layers());
  fields.Integers("window_per_layer", 1, attention->mutable_window_per_layer());
  fields.Integers("num_initial_per_layer", 0, attention->mutable_num_initial_per_layer());
}

}  // namespace

void ReadHfConfig(const std::string& path, config::ModelConfig* config) {
  const JsonObject object = ReadJsonObject(path);
  const Fields fields(path, object);
  const std::string* type = fields.Get<std::string>("model_type", "a string");
  const bool is_sepllm = type != nullptr && *type == "sepllm_gpt_neox";
  if (type == nullptr || (*type != "gpt_neox" && !is_sepllm)) {
    fields.Fail("model_type", fmt::format("is '{}'", type == nullptr ? "" : *type),
                "Sepia reads models of type gpt_neox and sepllm_gpt_neox");
  }
  ReadSizes(fields, config);
  ReadRotary(fields, config);
  ReadActivation(fields, config);
  const double epsilon = fields.Number("layer_norm_eps").value_or(1e-5);
  if (!(epsilon > 0 && epsilon < 1)) {
    fields.Fail("layer_norm_eps", fmt::format("is {}, outside (0, 1)", epsilon));
  }
  config->set_layer_norm_eps(epsilon);
  config->set_parallel_residual(fields.Boolean("use_parallel_residual", true));
  config->set_tie_embeddings(fields.Boolean("tie_word_embeddings", false));
  if (!fields.Boolean("attention_bias", true)) {
    fields.Fail("attention_bias", "is false: attention without biases is not supported");
  }
  if (is_sepllm) {
    FillSepllmAttention(object, path, config);
  } else {
    ReadAttention(fields, config);
  }
}

}  // namespace sepia::checkpoint
