#include "model/model_memory.h"

#include <algorithm>

#include "kernels/layer_norm.h"
#include "kernels/lm_head.h"

namespace sepia::model {

namespace {

// One vector in the layout's order, and the parameters in it.
void AllocateFlat(Arena& arena, const char* name, DType dtype, const FlatLayout& layout,
                  TensorView* flat, std::vector<TensorView>* views) {
  *flat = arena.Allocate(name, dtype, {layout.size});
  for (size_t i = 0; i < layout.shapes.size(); ++i) {
    const Shape& shape = layout.shapes[i];
    views->push_back(flat->Rows(layout.begins[i], shape.num_elements()).Reshaped(shape));
  }
}

}  // namespace

BlockShape LargestBlock(const ModelConfig& config, const ModelOptions& options,
                        int64_t tensor_size) {
  return {.B = options.batch_size,
          .T = options.seq_length,
          .C = config.hidden_size,
          .H = config.num_heads / tensor_size,
          .D = config.head_dim(),
          .F = config.intermediate_size / tensor_size,
          .dtype = options.compute_dtype};
}

ModelMemory AllocateModelMemory(const ModelConfig& config, const ModelOptions& options,
                                const FlatLayout& layout, int64_t tensor_size, Arenas& arenas) {
  ModelMemory memory;
  const DType dtype = options.compute_dtype;
  AllocateFlat(arenas.params, "weights", dtype, layout, &memory.flat_weights, &memory.weights);
  memory.grads.resize(memory.weights.size());
  if (options.gradients) {
    memory.grads.clear();
    AllocateFlat(arenas.grads, "gradients", DType::kFloat32, layout, &memory.flat_grads,
                 &memory.grads);
  }

  Arena& arena = arenas.activations;
  const Shape table_shape{options.seq_length, config.rotary_dim() / 2};
  memory.cos = arena.Allocate("rotary.cos", DType::kFloat32, table_shape);
  memory.sin = arena.Allocate("rotary.sin", DType::kFloat32, table_shape);

  const BlockShape shape = LargestBlock(config, options, tensor_size);
  const Shape width{shape.M(), shape.C};
  memory.residual.push_back(arena.Allocate("residual", dtype, width));
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const std::string name = fmt::format("layers.{}", l);
    const bool own_blocks = l == 0 || (options.gradients && !options.recompute);
    memory.blocks.push_back(
        own_blocks ? AllocateBlockActivations(arena, name, shape, config.parallel_residual)
                   : memory.blocks.front());
    memory.residual.push_back(options.gradients ? arena.Allocate(name + ".residual", dtype, width)
                                                : memory.residual.front());
  }
  memory.final_ln = arena.Allocate("final_ln", dtype, width);
  memory.final_mean = arena.Allocate("final_mean", DType::kFloat32, {shape.M()});
  memory.final_rstd = arena.Allocate("final_rstd", DType::kFloat32, {shape.M()});
  memory.temporaries = AllocateBlockTemporaries(arena, shape, options.gradients);
  if (options.gradients) memory.d_residual = arena.Allocate("d_residual", dtype, width);
  return memory;
}

int64_t ModelScratchBytes(const ModelConfig& config, const ModelOptions& options,
                          int64_t tensor_size) {
  const BlockShape shape = LargestBlock(config, options, tensor_size);
  return std::max(
      BlockScratchBytes(shape, options.num_threads),
      kernels::LmHeadScratchBytes(shape.M(), shape.C, config.vocab_size / tensor_size, shape.dtype,
                                  options.num_threads, static_cast<int>(tensor_size)));
}

}  // namespace sepia::model
