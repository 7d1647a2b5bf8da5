#include "model/gpt_neox_state.h"

#include "base/device_memory.h"
#include "kernels/rotary.h"

namespace sepia::model {

using kernels::Context;

void ZeroPadding(const FlatLayout& layout, size_t first, size_t last, TensorView flat) {
  for (size_t i = first; i < last; ++i) {
    const int64_t begin = layout.begins[i] + layout.shapes[i].num_elements();
    const int64_t end = i + 1 < layout.begins.size() ? layout.begins[i + 1] : layout.size;
    FillBytes(flat.Rows(begin, end - begin), 0);
  }
}

GptNeox::State::State(const ModelConfig& model_config, const ModelOptions& model_options,
                      dist::Mesh& model_mesh)
    : config(model_config),
      options(model_options),
      mesh(model_mesh),
      tensor_size(mesh.tensor().size()),
      table(config),
      layout(table, tensor_size, mesh.data().size()),
      plan(MakeAttentionPlan(config)),
      arenas(MakeArenas()),
      scratch("scratch", ModelScratchBytes(config, options, tensor_size), options.device),
      memory(AllocateModelMemory(config, options, layout, tensor_size, arenas)),
      inputs(options.device, config.vocab_size,
             {.batch_size = options.batch_size,
              .seq_length = options.seq_length,
              .num_indexes = static_cast<int64_t>(plan.specs.size()),
              .round_packed = options.graphs}) {
  matrices.resize(memory.weights.size());
  for (size_t i = 0; i < matrices.size(); ++i) matrices[i].canonical = memory.weights[i];
  WriteFromHost(memory.cos, [&](TensorView cos) {
    WriteFromHost(memory.sin, [&](TensorView sin) {
      kernels::BuildRotaryTables(options.rotary_tables, config.rotary_base, cos, sin);
    });
  });
  // Replicas are compared with the padding.
  ZeroPadding(layout, 0, layout.begins.size(), memory.flat_weights);
  // What lies between parameters takes part in sums over ranks. Backward sees to it where
  // activations come between.
  if (!KeepsGradients()) return;
  for (const TensorView& bucket : memory.bucket_grads) FillBytes(bucket, 0);
}

Arenas GptNeox::State::MakeArenas() const {
  Arenas counting{Arena("params"), Arena("grads"), Arena("activations")};
  AllocateModelMemory(config, options, layout, tensor_size, counting);
  return {Arena("params", counting.params.used_bytes(), options.device),
          Arena("grads", counting.grads.used_bytes(), options.device),
          Arena("activations", counting.activations.high_water_bytes(), options.device)};
}

BlockShape GptNeox::State::ShapeOf(const Batch& batch) const {
  CHECK(batch.batch_size <= options.batch_size && batch.seq_length <= options.seq_length,
        "a batch of {} for a model of {} x {}", batch.shape(), options.batch_size,
        options.seq_length);
  CHECK_EQ(batch.indexes.size(), plan.specs.size());
  BlockShape shape = LargestBlock(config, options, tensor_size);
  shape.B = batch.batch_size;
  shape.T = batch.seq_length;
  return shape;
}

ResidualRows GptNeox::State::RowsOf(const BlockShape& shape) const {
  return shape.row_ranks == 1 ? ResidualRows(mesh.tensor(), shape.M())
                              : ResidualRows(mesh.tensor(), shape.M(), options.sequence_chunk_rows);
}

BlockContext GptNeox::State::Block(int64_t layer, const Batch& batch, const ResidualRows& rows) {
  const AttentionPlan::Layer& attention = plan.layers[static_cast<size_t>(layer)];
  return {.rows = rows,
          .recompute_norms = !memory.temporaries.norm.empty(),
          .parallel_residual = config.parallel_residual,
          .gelu = config.activation,
          .layer_norm_eps = static_cast<float>(config.layer_norm_eps),
          .cos = memory.cos,
          .sin = memory.sin,
          .index = attention.index < 0 ? nullptr
                                       : &inputs.index(batch, static_cast<size_t>(attention.index)),
          .window = attention.window};
}

BlockWeights GptNeox::State::Weights(int64_t layer) const {
  const auto number = [&](BlockParam role) {
    return static_cast<size_t>(table.block(layer, role));
  };
  const auto vector = [&](BlockParam role) { return memory.weights[number(role)]; };
  const auto matrix = [&](BlockParam role) -> const kernels::Weight& {
    return matrices[number(role)];
  };
  return {.ln1_gamma = vector(BlockParam::kLn1Gamma),
          .ln1_beta = vector(BlockParam::kLn1Beta),
          .qkv = matrix(BlockParam::kQkvWeight),
          .qkv_bias = vector(BlockParam::kQkvBias),
          .dense = matrix(BlockParam::kDenseWeight),
          .dense_bias = vector(BlockParam::kDenseBias),
          .ln2_gamma = vector(BlockParam::kLn2Gamma),
          .ln2_beta = vector(BlockParam::kLn2Beta),
          .up = matrix(BlockParam::kUpWeight),
          .up_bias = vector(BlockParam::kUpBias),
          .down = matrix(BlockParam::kDownWeight),
          .down_bias = vector(BlockParam::kDownBias)};
}

BlockGradients GptNeox::State::Gradients(int64_t layer) const {
  const auto grad = [&](BlockParam role) {
    return memory.grads[static_cast<size_t>(table.block(layer, role))];
  };
  return {.ln1_gamma = grad(BlockParam::kLn1Gamma),
          .ln1_beta = grad(BlockParam::kLn1Beta),
          .qkv = grad(BlockParam::kQkvWeight),
          .qkv_bias = grad(BlockParam::kQkvBias),
          .dense = grad(BlockParam::kDenseWeight),
          .dense_bias = grad(BlockParam::kDenseBias),
          .ln2_gamma = grad(BlockParam::kLn2Gamma),
          .ln2_beta = grad(BlockParam::kLn2Beta),
          .up = grad(BlockParam::kUpWeight),
          .up_bias = grad(BlockParam::kUpBias),
          .down = grad(BlockParam::kDownWeight),
          .down_bias = grad(BlockParam::kDownBias)};
}

void GptNeox::State::RunBlock(Context& ctx, const Batch& batch, int64_t layer,
                              const ResidualRows& rows) {
  const BlockShape shape = ShapeOf(batch);
  BlockForward(ctx, {.block = Block(layer, batch, rows),
                     .weights = Weights(layer),
                     .x = Residual(layer, shape),
                     .activations = Narrow(memory.blocks[static_cast<size_t>(layer)], shape),
                     .temporaries = memory.temporaries,
                     .y = Residual(layer + 1, shape)});
}

}  // namespace sepia::model
