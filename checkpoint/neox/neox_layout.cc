#include "checkpoint/neox/neox_layout.h"

#include "checkpoint/import/hf_layout.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

class Builder {
 public:
  void Add(const std::string& hf_name, int layer, const std::string& key, const Shape& shape,
           TensorMerge merge, const std::string& alternative_key = "") {
    tensors.push_back({hf_name, layer, key, alternative_key, shape, merge});
  }
  void AddNorm(const std::string& hf, int layer, const std::string& key, int64_t width) {
    for (const char* part : {".weight", ".bias"}) {
      Add(hf + part, layer, key + part, {width}, TensorMerge::kMean);
    }
  }

  std::vector<NeoxTensor> tensors;
};

void AddBlock(const config::ModelConfig& model, int index, Builder* builder) {
  const int64_t c = model.hidden_size();
  const int64_t f = model.intermediate_size();
  const int layer = index + 2;
  const std::string hf = std::string(kHfPrefix) + "layers." + std::to_string(index) + ".";
  const TensorMerge row_bias =
      model.parallel_residual() ? TensorMerge::kSumOfWeights : TensorMerge::kMean;
  const auto add = [&](const char* key, const Shape& shape, TensorMerge merge,
                       const char* alternative = "") {
    builder->Add(hf + key, layer, key, shape, merge, alternative);
  };
  builder->AddNorm(hf + "input_layernorm", layer, "input_layernorm", c);
  add("attention.query_key_value.weight", {3 * c, c}, TensorMerge::kRows);
  add("attention.query_key_value.bias", {3 * c}, TensorMerge::kRows);
  add("attention.dense.weight", {c, c}, TensorMerge::kColumns);
  add("attention.dense.bias", {c}, row_bias);
  builder->AddNorm(hf + "post_attention_layernorm", layer, "post_attention_layernorm", c);
  add("mlp.dense_h_to_4h.weight", {f, c}, TensorMerge::kRows, "mlp.linear1.weight");
  add("mlp.dense_h_to_4h.bias", {f}, TensorMerge::kRows, "mlp.linear1.bias");
  add("mlp.dense_4h_to_h.weight", {c, f}, TensorMerge::kColumns, "mlp.linear2.weight");
  add("mlp.dense_4h_to_h.bias", {c}, row_bias, "mlp.linear2.bias");
}

}  // namespace

std::vector<NeoxTensor> NeoxTensors(const config::ModelConfig& model) {
  Builder builder;
  const int layers = model.num_layers();
  const Shape table = {model.vocab_size(), model.hidden_size()};
  builder.Add(std::string(kHfEmbedding), 0, "word_embeddings.weight", table, TensorMerge::kRows);
  for (int i = 0; i < layers; ++i) AddBlock(model, i, &builder);
  builder.AddNorm(std::string(kHfPrefix) + "final_layer_norm", layers + 3, "norm",
                  model.hidden_size());
  if (!model.tie_embeddings()) {
    builder.Add(std::string(kHfHead), layers + 4, "final_linear.weight", table, TensorMerge::kRows);
  }
  return std::move(builder.tensors);
}

Rectangle NeoxPart(const NeoxTensor& tensor, int rank, int ranks) {
  Rectangle part = Rectangle::Whole(tensor.shape);
  if (tensor.merge != TensorMerge::kRows && tensor.merge != TensorMerge::kColumns) return part;
  const int cut = tensor.merge == TensorMerge::kRows ? 0 : 1;
  std::vector<int64_t> extent(tensor.shape.dims().begin(), tensor.shape.dims().end());
  extent[static_cast<size_t>(cut)] /= ranks;
  part.offset[static_cast<size_t>(cut)] = rank * extent[static_cast<size_t>(cut)];
  part.extent = Shape(std::span<const int64_t>(extent));
  return part;
}

}  // namespace sepia::checkpoint
