#include "checkpoint/export/sepllm_keys.h"

#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

using config::AttentionConfig;

// `. , ? ! ; : space tab newline` of the Pythia tokenizer: the default of AttentionConfig.
const std::vector<int> kPythiaSeparators = {15, 13, 32, 2, 28, 27, 209, 186, 187};

// One window a layer where layers differ, else none. A full layer's is the whole sequence.
std::vector<int> WindowsByLayer(const config::ModelConfig& config) {
  const AttentionConfig& attention = config.attention();
  if (attention.full_layers().empty() && attention.window_per_layer().empty()) return {};
  std::vector<int> windows(static_cast<size_t>(config.num_layers()), attention.window());
  for (int layer = 0; layer < attention.window_per_layer_size(); ++layer) {
    windows[static_cast<size_t>(layer)] = attention.window_per_layer(layer);
  }
  for (const int layer : attention.full_layers()) {
    windows[static_cast<size_t>(layer < 0 ? layer + config.num_layers() : layer)] =
        config.max_positions();
  }
  return windows;
}

void RefuseInexpressible(const AttentionConfig& attention) {
  if (attention.kind() == AttentionConfig::FIXED_STRIDE) {
    throw UserError("sepllm-hf cannot say FIXED_STRIDE attention; use --to hf or sepia");
  }
  if (!attention.num_initial_per_layer().empty()) {
    throw UserError("sepllm-hf cannot say num_initial_per_layer; use --to hf or sepia");
  }
}

}  // namespace

std::string MakeSepllmKeys(const config::ModelConfig& config) {
  const AttentionConfig& attention = config.attention();
  RefuseInexpressible(attention);
  const auto& ids = attention.separator_ids();
  const std::vector<int> separators =
      ids.empty() ? kPythiaSeparators : std::vector<int>(ids.begin(), ids.end());
  const std::vector<int> windows = WindowsByLayer(config);
  const bool is_full = attention.kind() == AttentionConfig::FULL;
  const nlohmann::ordered_json keys = {
      {"pos_emb", "rotary"},
      {"num_layers", config.num_layers()},
      {"model_parallel_size", 1},
      {"mup_rp_embedding_mult", 1.0},
      {"separator_token_ids", separators},
      {"PADDING_ID", 0},
      {"prefill_local_window_size", attention.window()},
      {"generate_local_window_size", attention.window()},
      {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", !windows.empty()},
      {"USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS", !windows.empty()},
      {"prefill_loc_win_size_list", windows},
      {"generate_win_loc_size_list", windows},
      {"init_tok_max_idx", attention.num_initial() - 1},
      {"USE_ORIGINAL_FULL_ATTEN", is_full},
      {"streamingLLM", attention.kind() == AttentionConfig::STREAMING},
      {"PRINT_KV_RATIO", false},
      {"print_ratio_intervals", 100},
      {"EXCLUDE_DIAGONAL", true},
      {"USE_BiPE", false},
      {"BiPE_seps", separators},
      {"USE_SA_SOFTMAX", false},
      {"USE_SA_SOFTMAX_NO_DENO", false},
      {"SA_Numerator_Bias", 0.0},
      {"SA_Denominator_Bias", 1e-10},
      {"BATCH_ADAPTIVE_INIT_POS", false},
  };
  return keys.dump();
}

}  // namespace sepia::checkpoint
