#include "checkpoint/export/hf_config.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "checkpoint/export/sepllm_keys.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

const char* TorchName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat16: return "float16";
    default: break;
  }
  CHECK(false, "no model is stored as {}", DTypeName(dtype));
}

template <typename Repeated>
void AddList(const char* key, const Repeated& values, Json* object) {
  if (!values.empty()) (*object)[key] = std::vector<int32_t>(values.begin(), values.end());
}

Json AttentionObject(const config::AttentionConfig& attention) {
  Json object;
  object["kind"] = config::AttentionConfig::Kind_Name(attention.kind());
  object["window"] = attention.window();
  object["num_initial"] = attention.num_initial();
  if (attention.has_stride()) object["stride"] = attention.stride();
  AddList("separator_ids", attention.separator_ids(), &object);
  AddList("full_layers", attention.full_layers(), &object);
  AddList("window_per_layer", attention.window_per_layer(), &object);
  AddList("num_initial_per_layer", attention.num_initial_per_layer(), &object);
  return object;
}

}  // namespace

bool HasSparseAttention(const config::ModelConfig& config) {
  return config.attention().kind() != config::AttentionConfig::FULL;
}

void KeepHfFields(config::ModelConfig* config) {
  config->clear_preset();
  config->clear_init();
  config->clear_output_init();
  // Defaults become explicit, as they are in the file.
  config->set_parallel_residual(config->parallel_residual());
  config->set_tie_embeddings(config->tie_embeddings());
  config->set_activation(config->activation());
  if (!HasSparseAttention(*config)) {
    config->clear_attention();
    return;
  }
  config::AttentionConfig* attention = config->mutable_attention();
  attention->clear_separator_text();
  attention->set_window(attention->window());
  attention->set_num_initial(attention->num_initial());
}

std::string MakeHfConfig(const config::ModelConfig& config, DType dtype, HfFlavor flavor) {
  const bool is_sepllm = flavor == HfFlavor::kSepllmGptNeox;
  Json json = {
      {"architectures", {is_sepllm ? "SepLLMGPTNeoXForCausalLM" : "GPTNeoXForCausalLM"}},
      {"model_type", is_sepllm ? "sepllm_gpt_neox" : "gpt_neox"},
      {"vocab_size", config.vocab_size()},
      {"hidden_size", config.hidden_size()},
      {"num_hidden_layers", config.num_layers()},
      {"num_attention_heads", config.num_heads()},
      {"intermediate_size", config.intermediate_size()},
      {"max_position_embeddings", config.max_positions()},
      {"hidden_act", config.activation() == config::ERF_GELU ? "gelu" : "gelu_new"},
      {"layer_norm_eps", config.layer_norm_eps()},
      {"use_parallel_residual", config.parallel_residual()},
      {"tie_word_embeddings", config.tie_embeddings()},
      {"attention_bias", true},
      {"attention_dropout", 0.0},
      {"hidden_dropout", 0.0},
      {"classifier_dropout", 0.0},
      {"initializer_range", 0.02},
      {"use_cache", true},
      {"is_decoder", false},
      {"bos_token_id", 0},
      {"eos_token_id", 0},
      // transformers 4, then 5.
      {"rotary_pct", config.rotary_pct()},
      {"rotary_emb_base", config.rotary_base()},
      {"torch_dtype", TorchName(dtype)},
      {"rope_parameters",
       {{"rope_type", "default"},
        {"rope_theta", config.rotary_base()},
        {"partial_rotary_factor", config.rotary_pct()}}},
      {"dtype", TorchName(dtype)},
  };
  if (is_sepllm) {
    json.update(Json::parse(MakeSepllmKeys(config)));
  } else if (HasSparseAttention(config)) {
    json["sepllm"] = AttentionObject(config.attention());
  }
  return json.dump(2) + "\n";
}

}  // namespace sepia::checkpoint
