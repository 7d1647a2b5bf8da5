#include "checkpoint/neox/neox_config.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/import/hf_layout.h"
#include "checkpoint/neox/yaml.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

// Typed access; null counts as absent.
class Keys {
 public:
  Keys(const JsonObject& object, const std::string& path) : object_(object), path_(path) {}

  [[noreturn]] void Fail(std::string_view key, const std::string& reason) const {
    throw BadData(path_, -1, fmt::format("{} {}", key, reason));
  }

  template <typename T>
  std::optional<T> Get(std::string_view key, const char* type) const {
    const JsonValue* value = FindKey(object_, key);
    if (value == nullptr || value->is_null()) return std::nullopt;
    if (const T* typed = value->As<T>()) return *typed;
    Fail(key, fmt::format("is {}, not {}", value->TypeName(), type));
  }

  int32_t Integer(std::string_view key, int64_t least, int64_t most,
                  std::optional<int64_t> otherwise = std::nullopt) const {
    std::optional<int64_t> value = Get<int64_t>(key, "an integer");
    if (!value) value = otherwise;
    if (!value) Fail(key, "is missing from the run's YAML configs");
    if (*value < least || *value > most) {
      Fail(key, fmt::format("is {}, outside [{}, {}]", *value, least, most));
    }
    return static_cast<int32_t>(*value);
  }

  double Number(std::string_view key, double otherwise) const {
    const JsonValue* value = FindKey(object_, key);
    if (value != nullptr && value->As<int64_t>() != nullptr) {
      return static_cast<double>(*value->As<int64_t>());
    }
    return Get<double>(key, "a number").value_or(otherwise);
  }

  bool Boolean(std::string_view key, bool otherwise) const {
    return Get<bool>(key, "a boolean").value_or(otherwise);
  }

  std::vector<int32_t> Integers(std::string_view key, int64_t least) const {
    std::vector<int32_t> integers;
    for (const JsonValue& value : Get<JsonArray>(key, "a list").value_or(JsonArray())) {
      const int64_t* integer = value.As<int64_t>();
      if (integer == nullptr || *integer < least || *integer > INT32_MAX) {
        Fail(key, fmt::format("is no list of integers from {} on", least));
      }
      integers.push_back(static_cast<int32_t>(*integer));
    }
    return integers;
  }

  // What Sepia computes only in one way.
  void Require(std::string_view key, const std::string& otherwise,
               const std::string& wanted) const {
    const std::string value = Get<std::string>(key, "a string").value_or(otherwise);
    if (value != wanted) {
      Fail(key, fmt::format("is '{}'; Sepia computes '{}' only", value, wanted));
    }
  }
  void Refuse(std::string_view key) const {
    if (Boolean(key, false)) Fail(key, "is true, which Sepia does not compute");
  }

 private:
  const JsonObject& object_;
  const std::string& path_;
};

// Layers that see everything become full_layers where the others share one window.
void FillWindows(const std::vector<int32_t>& windows, int max_positions,
                 config::AttentionConfig* attention) {
  std::vector<int32_t> sparse;
  std::vector<int> full;
  for (size_t layer = 0; layer < windows.size(); ++layer) {
    if (windows[layer] >= max_positions) {
      full.push_back(static_cast<int>(layer));
    } else {
      sparse.push_back(windows[layer]);
    }
  }
  const bool uniform =
      !sparse.empty() && std::count(sparse.begin(), sparse.end(), sparse.front()) ==
                             static_cast<std::ptrdiff_t>(sparse.size());
  if (!uniform) {
    attention->mutable_window_per_layer()->Add(windows.begin(), windows.end());
    return;
  }
  attention->set_window(sparse.front());
  attention->mutable_full_layers()->Add(full.begin(), full.end());
}

void FillSizes(const Keys& keys, config::ModelConfig* model) {
  model->set_num_layers(keys.Integer("num_layers", 1, kMaxLayers));
  model->set_hidden_size(keys.Integer("hidden_size", 1, kMaxWidth));
  model->set_num_heads(keys.Integer("num_attention_heads", 1, kMaxWidth));
  model->set_intermediate_size(
      keys.Integer("intermediate_size", 1, 16 * kMaxWidth, int64_t{4} * model->hidden_size()));
  const int32_t seq_length = keys.Integer("seq_length", 1, kMaxRows, 2048);
  model->set_max_positions(keys.Integer("max_position_embeddings", 1, kMaxRows, seq_length));
  if (model->hidden_size() % model->num_heads() != 0) {
    keys.Fail("num_attention_heads", fmt::format("is {}, which does not divide hidden_size {}",
                                                 model->num_heads(), model->hidden_size()));
  }
}

void FillRotary(const Keys& keys, config::ModelConfig* model) {
  keys.Require("pos_emb", "learned", "rotary");
  model->set_rotary_pct(keys.Number("rotary_pct", 1));
  model->set_rotary_base(keys.Number("rotary_emb_base", 10000));
  const int head_size = model->hidden_size() / model->num_heads();
  const double turned = head_size * model->rotary_pct();
  if (!(model->rotary_pct() > 0 && model->rotary_pct() <= 1) || static_cast<int>(turned) < 2 ||
      static_cast<int>(turned) % 2 != 0) {
    keys.Fail("rotary_pct",
              fmt::format("is {}: it turns {} of {} head dimensions, which must be an even "
                          "number above 0",
                          model->rotary_pct(), turned, head_size));
  }
  if (!(model->rotary_base() > 1)) keys.Fail("rotary_emb_base", "is not above 1");
}

}  // namespace

JsonObject ReadNeoxConfigs(const std::vector<std::string>& paths) {
  JsonObject merged;
  std::map<std::string, std::string> origins;
  for (const std::string& path : paths) {
    for (JsonMember& member : ReadYamlObject(path)) {
      std::replace(member.key.begin(), member.key.end(), '-', '_');
      const auto [origin, is_new] = origins.emplace(member.key, path);
      if (!is_new) {
        throw BadData(path, -1,
                      fmt::format("the key '{}' is also in {}", member.key, origin->second),
                      "GPT-NeoX wants each key once");
      }
      merged.push_back(std::move(member));
    }
  }
  return merged;
}

std::vector<std::string> FindNeoxConfigs(const std::string& folder) {
  std::vector<std::string> paths;
  for (const std::string& place : {folder + "/configs", folder}) {
    if (!std::filesystem::is_directory(place)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(place)) {
      const auto extension = entry.path().extension();
      if (extension == ".yml" || extension == ".yaml") paths.push_back(entry.path());
    }
    if (!paths.empty()) break;
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// Training-SepLLM/megatron/neox_arguments/neox_args.py; window and initial tokens as in the mask
// code.
void FillSepllmAttention(const JsonObject& object, const std::string& path,
                         config::ModelConfig* model) {
  const Keys keys(object, path);
  for (const char* key : {"USE_BiPE", "USE_SA_SOFTMAX", "USE_SA_SOFTMAX_NO_DENO"}) keys.Refuse(key);
  const std::vector<int32_t> separators = keys.Integers("separator_token_ids", -1);
  const bool is_sparse = !separators.empty() && separators.front() >= 0;
  const bool is_streaming = keys.Boolean("streamingLLM", false);
  if (keys.Boolean("USE_ORIGINAL_FULL_ATTEN", false) || (!is_sparse && !is_streaming)) return;
  config::AttentionConfig* attention = model->mutable_attention();
  attention->set_kind(is_streaming ? config::AttentionConfig::STREAMING
                                   : config::AttentionConfig::SEP);
  attention->set_num_initial(keys.Integer("init_tok_max_idx", -1, kMaxRows, 2) + 1);
  if (!is_streaming) attention->mutable_separator_ids()->Add(separators.begin(), separators.end());
  if (!keys.Boolean("USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", false)) {
    attention->set_window(keys.Integer("prefill_local_window_size", 1, kMaxRows, 256));
    return;
  }
  const std::vector<int32_t> windows = keys.Integers("prefill_loc_win_size_list", 1);
  if (static_cast<int>(windows.size()) != model->num_layers()) {
    keys.Fail("prefill_loc_win_size_list",
              fmt::format("has {} entries for {} layers", windows.size(), model->num_layers()));
  }
  FillWindows(windows, model->max_positions(), attention);
}

void FillNeoxModelConfig(const JsonObject& object, const std::string& path,
                         config::ModelConfig* model) {
  const Keys keys(object, path);
  FillSizes(keys, model);
  FillRotary(keys, model);
  keys.Require("norm", "layernorm", "layernorm");
  keys.Require("activation", "gelu", "gelu");
  keys.Refuse("gpt_j_tied");
  for (const char* key : {"use_bias_in_norms", "use_bias_in_attn_linear"}) {
    if (!keys.Boolean(key, true)) keys.Fail(key, "is false: models without biases are not read");
  }
  // Fused bias and GELU is the tanh form (megatron/model/activations.py).
  model->set_activation(keys.Boolean("bias_gelu_fusion", false) ? config::TANH_GELU
                                                                : config::ERF_GELU);
  const double epsilon = keys.Number("layernorm_epsilon", 1e-5);
  if (!(epsilon > 0 && epsilon < 1)) keys.Fail("layernorm_epsilon", "is outside (0, 1)");
  model->set_layer_norm_eps(epsilon);
  model->set_parallel_residual(keys.Boolean("gpt_j_residual", false));
  model->set_tie_embeddings(!keys.Boolean("no_weight_tying", false));
  FillSepllmAttention(object, path, model);
}

}  // namespace sepia::checkpoint
