// The architecture as plain numbers, resolved from model_config.proto: presets applied, defaults
// filled in, every layer's attention spelled out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/attention_index.h"
#include "kernels/gelu.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::model {

enum class InitMethod : uint8_t { kSmall, kWang, kNormal, kScaledNormal };

// One layer's visibility rule. A FULL layer has kind kFull and window = max_positions.
struct LayerAttention {
  AttentionKind kind = AttentionKind::kFull;
  int64_t window = 0;
  int32_t num_initial = 0;
  int32_t stride = 0;
  friend bool operator==(const LayerAttention&, const LayerAttention&) = default;
};

struct ModelConfig {
  int64_t vocab_size = 0;         // V, padded
  int64_t hidden_size = 0;        // C
  int64_t num_layers = 0;         // L
  int64_t num_heads = 0;          // H
  int64_t intermediate_size = 0;  // F
  int64_t max_positions = 2048;
  double rotary_pct = 0.25;
  double rotary_base = 10000;
  double layer_norm_eps = 1e-5;
  bool parallel_residual = true;
  bool tie_embeddings = false;
  kernels::GeluKind activation = kernels::GeluKind::kTanh;
  InitMethod init = InitMethod::kSmall;
  InitMethod output_init = InitMethod::kWang;
  std::vector<LayerAttention> attention;  // one per layer
  std::vector<int32_t> separator_ids;     // sorted, unique; for the SEP layers

  int64_t head_dim() const { return hidden_size / num_heads; }  // D
  int64_t rotary_dim() const {  // int(D * rotary_pct), as NeoX and transformers
    return static_cast<int64_t>(static_cast<double>(head_dim()) * rotary_pct);
  }
  int64_t num_parameters() const;
};

// Published values a preset brings along besides the architecture.
struct PresetDefaults {
  double lr = 0;
  double min_lr = 0;
};

// All preset names, smallest model first.
std::vector<std::string> PresetNames();
// Throws UserError with did-you-mean for an unknown name.
PresetDefaults PresetOptimizer(const std::string& preset);

// Applies the preset and defaults of `proto`. separator_text must already be resolved to ids.
// Every fault is appended to `faults` as "field.path: what; remedy"; the result is usable only
// when none was added.
ModelConfig ResolveModelConfig(const config::ModelConfig& proto, std::vector<std::string>* faults);

// Writes every field back, so that a resolved config can be stored and compared.
void ModelConfigToProto(const ModelConfig& config, config::ModelConfig* proto);

// Which distinct indexes a batch needs and which one each layer uses.
struct AttentionPlan {
  struct Layer {
    int64_t window;  // >= T for FULL layers
    int index;       // into specs and Batch::indexes; -1: no packed keys (FULL)
  };
  std::vector<AttentionIndexSpec> specs;
  std::vector<Layer> layers;
};
AttentionPlan MakeAttentionPlan(const ModelConfig& config);

}  // namespace sepia::model
