#include "checkpoint/gguf/gguf_layout.h"

#include <array>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "checkpoint/import/hf_layout.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kBlockNames = {{
    {"input_layernorm", "attn_norm"},
    {"attention.query_key_value", "attn_qkv"},
    {"attention.dense", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.dense_h_to_4h", "ffn_up"},
    {"mlp.dense_4h_to_h", "ffn_down"},
}};
constexpr std::string_view kLayers = "gpt_neox.layers.";
constexpr std::string_view kFinalNorm = "gpt_neox.final_layer_norm";

}  // namespace

std::string GgufName(const std::string& hf_name) {
  if (hf_name == kHfEmbedding) return "token_embd.weight";
  if (hf_name == kHfHead) return "output.weight";
  const size_t suffix = hf_name.rfind('.');
  const std::string module = hf_name.substr(0, suffix);
  const std::string part = hf_name.substr(suffix);
  if (module == kFinalNorm) return "output_norm" + part;
  CHECK(hf_name.starts_with(kLayers), "tensor '{}'", hf_name);
  const size_t dot = hf_name.find('.', kLayers.size());
  const std::string index = hf_name.substr(kLayers.size(), dot - kLayers.size());
  for (const auto& [hf, gguf] : kBlockNames) {
    if (module.substr(dot + 1) == hf) return "blk." + index + "." + std::string(gguf) + part;
  }
  CHECK(false, "tensor '{}'", hf_name);
}

std::vector<Rectangle> GgufOrder(const std::string& hf_name, const Shape& shape,
                                 const config::ModelConfig& config, int64_t max_elements) {
  if (hf_name.find("attention.query_key_value.") == std::string::npos) {
    return SplitContiguously(Rectangle::Whole(shape), max_elements);
  }
  const int64_t heads = config.num_heads();
  const int64_t head_size = shape[0] / (3 * heads);
  std::vector<Rectangle> parts;
  for (int64_t which = 0; which < 3; ++which) {
    for (int64_t head = 0; head < heads; ++head) {
      std::vector<int64_t> extent(shape.dims().begin(), shape.dims().end());
      extent[0] = head_size;
      Rectangle part{std::vector<int64_t>(extent.size(), 0),
                     Shape(std::span<const int64_t>(extent))};
      part.offset[0] = (3 * head + which) * head_size;
      parts.push_back(std::move(part));
    }
  }
  return parts;
}

}  // namespace sepia::checkpoint
