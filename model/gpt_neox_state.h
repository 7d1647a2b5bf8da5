// What a GptNeox holds: for gpt_neox.cc, which computes with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/block.h"
#include "model/gather.h"
#include "model/gpt_neox.h"
#include "model/model_inputs.h"
#include "model/model_memory.h"

namespace sepia::model {

// What lies behind parameters [first, last) takes part in sums over ranks: it must be zero.
void ZeroPadding(const FlatLayout& layout, size_t first, size_t last, TensorView flat);

struct GptNeox::State {
  State(const ModelConfig& model_config, const ModelOptions& model_options, dist::Mesh& model_mesh);

  Arenas MakeArenas() const;
  BlockShape ShapeOf(const Batch& batch) const;
  ResidualRows RowsOf(const BlockShape& shape) const;
  BlockContext Block(int64_t layer, const Batch& batch, const ResidualRows& rows);
  BlockWeights Weights(int64_t layer) const;
  BlockGradients Gradients(int64_t layer) const;
  bool KeepsGradients() const { return model::KeepsGradients(config, options); }
  TensorView Residual(int64_t layer, const BlockShape& shape) const {
    return Prefix(memory.residual[static_cast<size_t>(layer)], {shape.own_rows(), shape.C});
  }
  // residual[layer + 1] and the block's activations, from residual[layer].
  void RunBlock(kernels::Context& ctx, const Batch& batch, int64_t layer, const ResidualRows& rows);
  void HeadBackward(kernels::Context& ctx, const Batch& batch, const ResidualRows& rows,
                    const BackwardArgs& args);

  ModelConfig config;
  ModelOptions options;
  dist::Mesh& mesh;
  int64_t tensor_size;
  ParameterTable table;
  FlatLayout layout;
  AttentionPlan plan;
  Arenas arenas;
  Arena scratch;
  ModelMemory memory;
  ModelInputs inputs;
  std::vector<kernels::Weight> matrices;  // by parameter number
  TensorRankSums partial_sums;
  bool has_activations = false;  // Forward left what Backward needs
};

}  // namespace sepia::model
