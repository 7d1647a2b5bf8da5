#include "model/parameters.h"

#include <algorithm>
#include <cmath>

#include <omp.h>

#include "base/philox.h"

namespace sepia::model {
namespace {

constexpr auto kBlockParams = static_cast<int64_t>(BlockParam::kCount);

// Standard deviations of NeoX's initialisers (megatron/model/init_functions.py).
Init MakeInit(InitMethod method, const ModelConfig& config) {
  const auto width = static_cast<double>(config.hidden_size);
  const auto layers = static_cast<double>(config.num_layers);
  switch (method) {
    case InitMethod::kSmall: return {Init::Kind::kNormal, std::sqrt(2.0 / (5.0 * width))};
    case InitMethod::kWang: return {Init::Kind::kNormal, 2.0 / (layers * std::sqrt(width))};
    case InitMethod::kNormal: return {Init::Kind::kNormal, 0.02};
    case InitMethod::kScaledNormal: return {Init::Kind::kNormal, 0.02 / std::sqrt(2.0 * layers)};
  }
  CHECK(false, "init method {}", static_cast<int>(method));
}

ParamSpec Matrix(const std::string& name, const std::string& hf_name, const Shape& shape,
                 Placement placement, const Init& init) {
  return {name, hf_name, shape, placement, init, /*weight_decay=*/true};
}

// Biases and LayerNorm parameters never decay (NeoX model/utils.py).
ParamSpec Vector(const std::string& name, const std::string& hf_name, int64_t size,
                 Placement placement, Init::Kind init) {
  return {name,
          hf_name,
          {size},
          placement,
          {init},
          /*weight_decay=*/false,
          /*partial_gradient=*/false};
}

// LayerNorms see the gradients of column-parallel products, each rank those of its own columns.
ParamSpec Norm(const std::string& name, const std::string& hf_name, int64_t size, Init::Kind init) {
  ParamSpec spec = Vector(name, hf_name, size, Placement::kReplicated, init);
  spec.partial_gradient = true;
  return spec;
}

// In the order of BlockParam.
void AddBlock(const ModelConfig& config, int64_t layer, std::vector<ParamSpec>* specs) {
  const int64_t c = config.hidden_size;
  const int64_t f = config.intermediate_size;
  const Init init = MakeInit(config.init, config);
  const Init output_init = MakeInit(config.output_init, config);
  const std::string name = fmt::format("layers.{}.", layer);
  const std::string hf = fmt::format("gpt_neox.layers.{}.", layer);
  constexpr auto kZero = Init::Kind::kZero;
  constexpr auto kOne = Init::Kind::kOne;
  constexpr auto kReplicated = Placement::kReplicated;
  constexpr auto kColumn = Placement::kColumn;
  constexpr auto kRow = Placement::kRow;
  const auto matrix = [&](const char* ours, const char* theirs, const Shape& shape,
                          Placement placement, const Init& how) {
    specs->push_back(Matrix(name + ours, hf + theirs, shape, placement, how));
  };
  const auto norm = [&](const char* ours, const char* theirs, Init::Kind how) {
    specs->push_back(Norm(name + ours, hf + theirs, c, how));
  };
  const auto vector = [&](const char* ours, const char* theirs, int64_t size, Placement placement,
                          Init::Kind how) {
    specs->push_back(Vector(name + ours, hf + theirs, size, placement, how));
  };
  norm("ln1.weight", "input_layernorm.weight", kOne);
  norm("ln1.bias", "input_layernorm.bias", kZero);
  matrix("attention.qkv.weight", "attention.query_key_value.weight", {3 * c, c}, kColumn, init);
  vector("attention.qkv.bias", "attention.query_key_value.bias", 3 * c, kColumn, kZero);
  matrix("attention.dense.weight", "attention.dense.weight", {c, c}, kRow, output_init);
  vector("attention.dense.bias", "attention.dense.bias", c, kReplicated, kZero);
  norm("ln2.weight", "post_attention_layernorm.weight", kOne);
  norm("ln2.bias", "post_attention_layernorm.bias", kZero);
  matrix("mlp.up.weight", "mlp.dense_h_to_4h.weight", {f, c}, kColumn, init);
  vector("mlp.up.bias", "mlp.dense_h_to_4h.bias", f, kColumn, kZero);
  matrix("mlp.down.weight", "mlp.dense_4h_to_h.weight", {c, f}, kRow, output_init);
  vector("mlp.down.bias", "mlp.dense_4h_to_h.bias", c, kReplicated, kZero);
}

}  // namespace

ParameterTable::ParameterTable(const ModelConfig& config)
    : num_layers_(config.num_layers), tied_(config.tie_embeddings) {
  const int64_t c = config.hidden_size;
  const Shape vocabulary{config.vocab_size, c};
  const Init init = MakeInit(config.init, config);
  specs_.push_back(
      Matrix("embedding.weight", "gpt_neox.embed_in.weight", vocabulary, Placement::kVocab, init));
  for (int64_t layer = 0; layer < num_layers_; ++layer) AddBlock(config, layer, &specs_);
  specs_.push_back(
      Norm("final_ln.weight", "gpt_neox.final_layer_norm.weight", c, Init::Kind::kOne));
  specs_.push_back(Norm("final_ln.bias", "gpt_neox.final_layer_norm.bias", c, Init::Kind::kZero));
  if (!tied_) {
    specs_.push_back(
        Matrix("head.weight", "embed_out.weight", vocabulary, Placement::kVocab, init));
  }
}

int64_t ParameterTable::num_parameters() const {
  int64_t total = 0;
  for (const ParamSpec& spec : specs_) total += spec.shape.num_elements();
  return total;
}

int ParameterTable::block(int64_t layer, BlockParam role) const {
  CHECK(layer >= 0 && layer < num_layers_, "layer {} of {}", layer, num_layers_);
  return static_cast<int>(1 + layer * kBlockParams) + static_cast<int>(role);
}

int ParameterTable::final_gamma() const { return static_cast<int>(1 + num_layers_ * kBlockParams); }
int ParameterTable::final_beta() const { return final_gamma() + 1; }
int ParameterTable::head() const { return tied_ ? embedding() : final_beta() + 1; }

void InitializeParameter(const ParamSpec& spec, std::span<const int64_t> offset, uint64_t seed,
                         int num_threads, TensorView values) {
  CHECK(values.rank() == spec.shape.rank() && values.rank() <= 2, "{} for {} of {}", values.shape(),
        spec.name, spec.shape);
  const std::span<float> out = values.span<float>();
  if (spec.init.kind != Init::Kind::kNormal) {
    std::fill(out.begin(), out.end(), spec.init.kind == Init::Kind::kOne ? 1.0f : 0.0f);
    return;
  }
  const PhiloxStream stream(seed, spec.hf_name);
  const int last = values.rank() - 1;
  const int64_t width = values.dim(last);
  const int64_t stride = spec.shape[last];
  const int64_t first = last == 0 ? offset[0] : offset[0] * stride + offset[1];
  const auto count = static_cast<int64_t>(out.size());
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (int64_t e = 0; e < count; ++e) {
    const int64_t element = first + e / width * stride + e % width;
    const double normal = stream.Normal(static_cast<uint64_t>(element));
    out[static_cast<size_t>(e)] = static_cast<float>(normal * spec.init.stddev);
  }
}

void InitializeParameter(const ParamSpec& spec, uint64_t seed, int num_threads, TensorView values) {
  CHECK_EQ(values.shape(), spec.shape);
  const std::vector<int64_t> origin(static_cast<size_t>(spec.shape.rank()), 0);
  InitializeParameter(spec, origin, seed, num_threads, values);
}

}  // namespace sepia::model
