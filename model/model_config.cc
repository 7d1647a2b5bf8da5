#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include <fmt/format.h>

#include "base/suggest.h"
#include "model/model_config.pb.h"

namespace sepia::model {
namespace {

// Architectures and learning rates: EleutherAI/pythia models/*/*.yml; 12b with 36 layers and 40
// heads as GPT-NeoX's configs/pythia/12B.yml (the deduped yml has the two numbers swapped); 6.9b
// and 12b name no initialiser, so NeoX's defaults apply. SepLLM's 1.4b has 32 heads instead of 16.
struct Preset {
  const char* name;
  int64_t num_layers, hidden_size, num_heads, vocab_size;
  InitMethod init, output_init;
  AttentionKind attention;
  PresetDefaults optimizer;
};

constexpr auto kSmall = InitMethod::kSmall;
constexpr auto kWang = InitMethod::kWang;
constexpr auto kNormal = InitMethod::kNormal;
constexpr auto kScaled = InitMethod::kScaledNormal;
constexpr auto kFull = AttentionKind::kFull;
constexpr auto kSep = AttentionKind::kSep;

constexpr Preset kPresets[] = {
    {"pythia-14m", 6, 128, 4, 50304, kSmall, kWang, kFull, {1e-3, 1e-4}},
    {"pythia-31m", 6, 256, 8, 50304, kSmall, kWang, kFull, {1e-3, 1e-4}},
    {"pythia-70m", 6, 512, 8, 50304, kSmall, kWang, kFull, {1e-3, 1e-4}},
    {"pythia-160m", 12, 768, 12, 50304, kSmall, kWang, kFull, {6e-4, 6e-5}},
    {"sepllm-160m", 12, 768, 12, 50304, kSmall, kWang, kSep, {6e-4, 6e-5}},
    {"pythia-410m", 24, 1024, 16, 50304, kSmall, kWang, kFull, {3e-4, 3e-5}},
    {"pythia-1b", 16, 2048, 8, 50304, kSmall, kWang, kFull, {2.5e-4, 2.5e-5}},
    {"pythia-1.4b", 24, 2048, 16, 50304, kSmall, kWang, kFull, {2e-4, 2e-5}},
    {"sepllm-1.4b", 24, 2048, 32, 50304, kSmall, kWang, kSep, {2e-4, 2e-5}},
    {"pythia-2.8b", 32, 2560, 32, 50304, kSmall, kWang, kFull, {1.6e-4, 1.6e-5}},
    {"pythia-6.9b", 32, 4096, 32, 50432, kNormal, kScaled, kFull, {1.2e-4, 1.2e-5}},
    {"pythia-12b", 36, 5120, 40, 50688, kNormal, kScaled, kFull, {1.2e-4, 1.2e-5}},
};

// `. , ? ! ; : space tab newline` in the Pythia tokenizer (DESIGN section 5).
constexpr int32_t kPythiaSeparators[] = {15, 13, 32, 2, 28, 27, 209, 186, 187};

// Far beyond any model, and small enough that no product of two overflows.
constexpr int64_t kLargestDimension = int64_t{1} << 24;
constexpr int64_t kMostLayers = 4096;

using Faults = std::vector<std::string>;

const Preset* FindPreset(const std::string& name) {
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return &preset;
  }
  return nullptr;
}

std::string UnknownPreset(const std::string& name) {
  const std::vector<std::string> names = PresetNames();
  return fmt::format("unknown preset \"{}\"{}; the presets are {}", name, DidYouMean(name, names),
                     fmt::join(names, ", "));
}

// Value of a field that only a preset can leave out, within [1, most]; 0 after a fault.
int64_t Dimension(const char* field, bool given, int64_t value, std::optional<int64_t> preset,
                  int64_t most, Faults* faults) {
  if (!given && !preset) {
    faults->push_back(fmt::format("model.{}: required; set it, or name a model.preset", field));
    return 0;
  }
  const int64_t result = given ? value : *preset;
  if (result < 1 || result > most) {
    faults->push_back(fmt::format("model.{}: {} is outside 1 to {}; give a size in that range",
                                  field, result, most));
    return 0;
  }
  return result;
}

void ResolveDimensions(const config::ModelConfig& proto, const Preset* preset, ModelConfig* config,
                       Faults* faults) {
  const auto from_preset = [&](int64_t Preset::*field) {
    return preset == nullptr ? std::nullopt : std::optional(preset->*field);
  };
  config->vocab_size = Dimension("vocab_size", proto.has_vocab_size(), proto.vocab_size(),
                                 from_preset(&Preset::vocab_size), kLargestDimension, faults);
  config->hidden_size =
      Dimension("hidden_size", proto.has_hidden_size(), proto.hidden_size(),
                from_preset(&Preset::hidden_size), kLargestDimension / 16, faults);
  config->num_layers = Dimension("num_layers", proto.has_num_layers(), proto.num_layers(),
                                 from_preset(&Preset::num_layers), kMostLayers, faults);
  config->num_heads = Dimension("num_heads", proto.has_num_heads(), proto.num_heads(),
                                from_preset(&Preset::num_heads), kLargestDimension / 16, faults);
  config->intermediate_size =
      Dimension("intermediate_size", proto.has_intermediate_size(), proto.intermediate_size(),
                std::max<int64_t>(1, 4 * config->hidden_size), kLargestDimension, faults);
  config->max_positions = Dimension("max_positions", true, proto.max_positions(), std::nullopt,
                                    kLargestDimension, faults);
}

void ResolveNumbers(const config::ModelConfig& proto, ModelConfig* config, Faults* faults) {
  const bool sizes_known = config->hidden_size > 0 && config->num_heads > 0;
  if (sizes_known && config->hidden_size % config->num_heads != 0) {
    faults->push_back(
        fmt::format("model.num_heads: {} does not divide hidden_size {}; "
                    "choose a divisor",
                    config->num_heads, config->hidden_size));
  }
  config->rotary_pct = proto.rotary_pct();
  if (!(config->rotary_pct > 0 && config->rotary_pct <= 1)) {
    faults->push_back(fmt::format("model.rotary_pct: {} is outside (0, 1]; Pythia uses 0.25",
                                  config->rotary_pct));
  } else if (sizes_known && (config->rotary_dim() < 2 || config->rotary_dim() % 2 != 0)) {
    faults->push_back(fmt::format(
        "model.rotary_pct: {} of a head of {} turns {} dimensions, which must be even and at least "
        "2; change rotary_pct or num_heads",
        config->rotary_pct, config->head_dim(), config->rotary_dim()));
  }
  config->rotary_base = proto.rotary_base();
  if (!(config->rotary_base > 1) || !std::isfinite(config->rotary_base)) {
    faults->push_back(
        fmt::format("model.rotary_base: {} must be finite and above 1; Pythia uses 10000",
                    config->rotary_base));
  }
  config->layer_norm_eps = proto.layer_norm_eps();
  if (!(config->layer_norm_eps > 0 && config->layer_norm_eps < 1)) {
    faults->push_back(fmt::format("model.layer_norm_eps: {} is outside (0, 1); Pythia uses 1e-5",
                                  config->layer_norm_eps));
  }
}

void ResolveChoices(const config::ModelConfig& proto, const Preset* preset, ModelConfig* config) {
  config->parallel_residual = proto.parallel_residual();
  config->tie_embeddings = proto.tie_embeddings();
  config->activation =
      proto.activation() == config::ERF_GELU ? kernels::GeluKind::kErf : kernels::GeluKind::kTanh;
  const bool use_preset = preset != nullptr;
  config->init =
      use_preset && !proto.has_init() ? preset->init : static_cast<InitMethod>(proto.init());
  config->output_init = use_preset && !proto.has_output_init()
                            ? preset->output_init
                            : static_cast<InitMethod>(proto.output_init());
}

// Layers that stay dense, negative numbers counting from the end.
std::vector<bool> FullLayers(const config::AttentionConfig& proto, int64_t num_layers,
                             Faults* faults) {
  std::vector<bool> full(static_cast<size_t>(num_layers), false);
  for (const int32_t layer : proto.full_layers()) {
    const int64_t index = layer < 0 ? layer + num_layers : layer;
    if (index < 0 || index >= num_layers) {
      faults->push_back(
          fmt::format("model.attention.full_layers: {} is not a layer of {}; use {} to {}", layer,
                      num_layers, -num_layers, num_layers - 1));
    } else {
      full[static_cast<size_t>(index)] = true;
    }
  }
  return full;
}

// The field's value for every layer: `per_layer` when given, else `common` everywhere.
template <typename Repeated>
std::vector<int32_t> PerLayer(const char* field, const Repeated& per_layer, int32_t common,
                              int32_t least, int64_t num_layers, Faults* faults) {
  std::vector<int32_t> values(per_layer.begin(), per_layer.end());
  if (!values.empty() && static_cast<int64_t>(values.size()) != num_layers) {
    faults->push_back(
        fmt::format("model.attention.{}_per_layer: {} entries for {} layers; give one a layer",
                    field, values.size(), num_layers));
    values.clear();
  }
  const char* suffix = values.empty() ? "" : "_per_layer";
  if (values.empty()) values.assign(static_cast<size_t>(num_layers), common);
  for (const int32_t value : values) {
    if (value < least) {
      faults->push_back(
          fmt::format("model.attention.{}{}: {} must be at least {}", field, suffix, value, least));
      break;
    }
  }
  return values;
}

void ResolveSeparators(const config::AttentionConfig& proto, ModelConfig* config, Faults* faults) {
  std::vector<int32_t>& ids = config->separator_ids;
  ids.assign(proto.separator_ids().begin(), proto.separator_ids().end());
  if (ids.empty() && proto.separator_text_size() > 0) {
    faults->push_back(
        "model.attention.separator_text: there is no tokenizer to resolve it; set "
        "data.tokenizer, or give separator_ids");
    return;
  }
  if (ids.empty()) ids.assign(std::begin(kPythiaSeparators), std::end(kPythiaSeparators));
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const int32_t id : ids) {
    if (id < 0 || id >= config->vocab_size) {
      faults->push_back(
          fmt::format("model.attention.separator_ids: {} is not in the vocabulary of {}; "
                      "give separator_ids or separator_text of this tokenizer",
                      id, config->vocab_size));
      break;
    }
  }
}

void ResolveAttention(const config::AttentionConfig& proto, const Preset* preset,
                      ModelConfig* config, Faults* faults) {
  const bool use_preset = preset != nullptr && !proto.has_kind();
  const AttentionKind kind =
      use_preset ? preset->attention : static_cast<AttentionKind>(proto.kind());
  const int64_t num_layers = config->num_layers;
  if (num_layers == 0) return;
  const std::vector<bool> full = FullLayers(proto, num_layers, faults);
  const std::vector<int32_t> windows =
      PerLayer("window", proto.window_per_layer(), proto.window(), 1, num_layers, faults);
  const std::vector<int32_t> initials = PerLayer("num_initial", proto.num_initial_per_layer(),
                                                 proto.num_initial(), 0, num_layers, faults);
  if (kind == AttentionKind::kFixedStride && proto.stride() < 1) {
    faults->push_back("model.attention.stride: FIXED_STRIDE needs a stride of at least 1");
  }
  for (size_t layer = 0; layer < static_cast<size_t>(num_layers); ++layer) {
    if (kind == AttentionKind::kFull || full[layer]) {
      config->attention.push_back({.window = config->max_positions});
    } else {
      config->attention.push_back(
          {.kind = kind,
           .window = windows[layer],
           .num_initial = initials[layer],
           .stride = kind == AttentionKind::kFixedStride ? proto.stride() : 0});
    }
  }
  if (kind == AttentionKind::kSep) ResolveSeparators(proto, config, faults);
}

// Writes one number when all sparse layers agree, else one per layer.
void AttentionToProto(const ModelConfig& config, config::AttentionConfig* proto) {
  proto->set_kind(config::AttentionConfig::FULL);
  const LayerAttention* first = nullptr;
  bool uniform = true;
  for (const LayerAttention& layer : config.attention) {
    if (layer.kind == AttentionKind::kFull) continue;
    if (first == nullptr) first = &layer;
    uniform = uniform && layer == *first;
  }
  if (first == nullptr) return;
  proto->set_kind(static_cast<config::AttentionConfig::Kind>(first->kind));
  if (first->stride > 0) proto->set_stride(first->stride);
  if (uniform) {
    proto->set_window(static_cast<int32_t>(first->window));
    proto->set_num_initial(first->num_initial);
  }
  for (size_t i = 0; i < config.attention.size(); ++i) {
    const LayerAttention& layer = config.attention[i];
    if (layer.kind == AttentionKind::kFull) proto->add_full_layers(static_cast<int32_t>(i));
    if (uniform) continue;
    proto->add_window_per_layer(static_cast<int32_t>(layer.window));
    proto->add_num_initial_per_layer(layer.num_initial);
  }
  for (const int32_t id : config.separator_ids) proto->add_separator_ids(id);
}

}  // namespace

int64_t ModelConfig::num_parameters() const {
  const int64_t c = hidden_size;
  const int64_t f = intermediate_size;
  const int64_t attention_weights = 3 * c * c + 3 * c + c * c + c;
  const int64_t mlp_weights = 2 * c * f + f + c;
  const int64_t block = attention_weights + mlp_weights + 4 * c;
  return (tie_embeddings ? 1 : 2) * vocab_size * c + num_layers * block + 2 * c;
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

PresetDefaults PresetOptimizer(const std::string& preset) {
  const Preset* found = FindPreset(preset);
  if (found == nullptr) throw UserError("model.preset: " + UnknownPreset(preset));
  return found->optimizer;
}

ModelConfig ResolveModelConfig(const config::ModelConfig& proto, std::vector<std::string>* faults) {
  const Preset* preset = nullptr;
  if (proto.has_preset()) {
    preset = FindPreset(proto.preset());
    if (preset == nullptr) {
      faults->push_back("model.preset: " + UnknownPreset(proto.preset()));
      preset = &kPresets[0];  // so that only real faults of the other fields are reported
    }
  }
  ModelConfig config;
  ResolveDimensions(proto, preset, &config, faults);
  ResolveNumbers(proto, &config, faults);
  ResolveChoices(proto, preset, &config);
  ResolveAttention(proto.attention(), preset, &config, faults);
  return config;
}

void ModelConfigToProto(const ModelConfig& config, config::ModelConfig* proto) {
  proto->Clear();
  proto->set_vocab_size(static_cast<int32_t>(config.vocab_size));
  proto->set_hidden_size(static_cast<int32_t>(config.hidden_size));
  proto->set_num_layers(static_cast<int32_t>(config.num_layers));
  proto->set_num_heads(static_cast<int32_t>(config.num_heads));
  proto->set_intermediate_size(static_cast<int32_t>(config.intermediate_size));
  proto->set_max_positions(static_cast<int32_t>(config.max_positions));
  proto->set_rotary_pct(config.rotary_pct);
  proto->set_rotary_base(config.rotary_base);
  proto->set_layer_norm_eps(config.layer_norm_eps);
  proto->set_parallel_residual(config.parallel_residual);
  proto->set_tie_embeddings(config.tie_embeddings);
  proto->set_activation(config.activation == kernels::GeluKind::kErf ? config::ERF_GELU
                                                                     : config::TANH_GELU);
  proto->set_init(static_cast<config::InitMethod>(config.init));
  proto->set_output_init(static_cast<config::InitMethod>(config.output_init));

  AttentionToProto(config, proto->mutable_attention());
}

AttentionPlan MakeAttentionPlan(const ModelConfig& config) {
  AttentionPlan plan;
  for (const LayerAttention& layer : config.attention) {
    if (layer.kind == AttentionKind::kFull) {
      plan.layers.push_back({.window = layer.window, .index = -1});
      continue;
    }
    AttentionIndexSpec spec{.kind = layer.kind,
                            .num_initial = layer.num_initial,
                            .stride = layer.stride,
                            .separator_ids = layer.kind == AttentionKind::kSep
                                                 ? config.separator_ids
                                                 : std::vector<int32_t>()};
    const auto found = std::find(plan.specs.begin(), plan.specs.end(), spec);
    const auto index = static_cast<int>(found - plan.specs.begin());
    if (found == plan.specs.end()) plan.specs.push_back(std::move(spec));
    plan.layers.push_back({.window = layer.window, .index = index});
  }
  return plan;
}

}  // namespace sepia::model
