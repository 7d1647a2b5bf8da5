// Everything a model keeps in its arenas. The same function runs with counting arenas to plan and
// with real ones to allocate.
#pragma once

#include <string>
#include <vector>

#include "base/arena.h"
#include "model/block.h"
#include "model/gpt_neox.h"
#include "model/sharding.h"

namespace sepia::model {

struct Arenas {
  Arena params;
  Arena grads;
  Arena activations;
};

struct ModelMemory {
  // By parameter number.
  std::vector<TensorView> weights;       // compute dtype, local shape
  std::vector<TensorView> grads;         // fp32; empty without gradients
  TensorView flat_weights, flat_grads;   // the same memory in the order of FlatLayout, with padding
  std::vector<TensorView> bucket_grads;  // by bucket; parts of flat_grads unless sharded
  TensorView cos, sin;                   // [T, rotary_dim / 2] fp32

  // By layer. Without gradients one memory serves all layers; with recomputation one memory serves
  // all `blocks`.
  std::vector<TensorView> residual;  // [R, C]: input of block l; the last: of the final LayerNorm
  std::vector<BlockActivations> blocks;
  TensorView final_x;  // [M, C]: all rows of the last residual, from Forward to Backward
  TensorView final_ln, final_mean, final_rstd;

  BlockTemporaries temporaries;
  TensorView d_residual;  // [R, C]: gradient of the residual stream
};

// Sizes of a block for the largest micro-batch.
BlockShape LargestBlock(const ModelConfig& config, const ModelOptions& options,
                        int64_t tensor_size);

// Whether gradients have memory of their own. The tied matrix takes the head's gradient at the
// start of backward, where activations would lie; buckets of sharded ones take turns.
inline bool KeepsGradients(const ModelConfig& config, const ModelOptions& options) {
  return options.keep_gradients || options.shard_gradients || config.tie_embeddings;
}

// Gradients that are not kept lie in arenas.activations, whose high-water mark is its size.
ModelMemory AllocateModelMemory(const ModelConfig& config, const ModelOptions& options,
                                const FlatLayout& layout, int64_t tensor_size, Arenas& arenas);

// Scratch that any op of the model takes at most.
int64_t ModelScratchBytes(const ModelConfig& config, const ModelOptions& options,
                          int64_t tensor_size);

// Which kernels run attention, for people: "avx512 in every layer", "cuDNN 9.19.0 SDPA bf16 D=64,
// deterministic in layers 0, 11, mma.sync bf16 D=64 in the others". Throws UserError where
// ctx.allow_fallback, or cuDNN, refuses.
std::string DescribeAttention(const kernels::Context& ctx, const ModelConfig& config,
                              const ModelOptions& options, int64_t tensor_size);

}  // namespace sepia::model
