#include "checkpoint/import/hf_layout.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {

bool HasPlausibleSizes(const config::ModelConfig& config) {
  const auto within = [](int64_t value, int64_t most) { return value > 0 && value <= most; };
  return within(config.vocab_size(), kMaxRows) && within(config.hidden_size(), kMaxWidth) &&
         within(config.num_layers(), kMaxLayers) && within(config.num_heads(), kMaxWidth) &&
         within(config.intermediate_size(), 16 * kMaxWidth) &&
         within(config.max_positions(), kMaxRows) && config.hidden_size() % config.num_heads() == 0;
}

std::vector<HfTensor> HfTensors(const config::ModelConfig& config) {
  CHECK(HasPlausibleSizes(config));
  const int64_t c = config.hidden_size();
  const int64_t f = config.intermediate_size();
  const int64_t v = config.vocab_size();
  std::vector<HfTensor> tensors;
  tensors.reserve(12 * static_cast<size_t>(config.num_layers()) + 4);
  const auto add = [&](std::string name, const Shape& shape) {
    tensors.push_back({std::move(name), shape});
  };
  const auto add_linear = [&](const std::string& name, int64_t out, int64_t in) {
    add(name + ".weight", {out, in});
    add(name + ".bias", {out});
  };
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", {c});
    add(name + ".bias", {c});
  };
  add(std::string(kHfEmbedding), {v, c});
  for (int layer = 0; layer < config.num_layers(); ++layer) {
    const std::string block = fmt::format("{}layers.{}.", kHfPrefix, layer);
    add_norm(block + "input_layernorm");
    add_linear(block + "attention.query_key_value", 3 * c, c);
    add_linear(block + "attention.dense", c, c);
    add_norm(block + "post_attention_layernorm");
    add_linear(block + "mlp.dense_h_to_4h", f, c);
    add_linear(block + "mlp.dense_4h_to_h", c, f);
  }
  add_norm(std::string(kHfPrefix) + "final_layer_norm");
  if (!config.tie_embeddings()) add(std::string(kHfHead), {v, c});
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return tensors;
}

bool IsCutAlongColumns(std::string_view name) {
  return name.ends_with(".attention.dense.weight") || name.ends_with(".mlp.dense_4h_to_h.weight");
}

bool IsHfBuffer(std::string_view name) {
  for (const std::string_view buffer :
       {"attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"}) {
    if (!name.ends_with(buffer)) continue;
    const std::string_view before = name.substr(0, name.size() - buffer.size());
    if (before.empty() || before.ends_with('.')) return true;
  }
  return false;
}

}  // namespace sepia::checkpoint
