#include "model/model_memory.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "kernels/embedding.h"
#include "kernels/layer_norm.h"
#include "kernels/lm_head.h"
#include "kernels/optimizer.h"
#include "kernels/sep_attention.h"

namespace sepia::model {

namespace {

// One vector in the layout's order, and the parameters in it.
void AllocateWeights(Arena& arena, DType dtype, const FlatLayout& layout, ModelMemory* memory) {
  memory->flat_weights = arena.Allocate("weights", dtype, {layout.size});
  for (size_t i = 0; i < layout.shapes.size(); ++i) {
    const Shape& shape = layout.shapes[i];
    memory->weights.push_back(
        memory->flat_weights.Rows(layout.begins[i], shape.num_elements()).Reshaped(shape));
  }
}

// Memory for one bucket at a time, of the sizes given.
TensorView AllocateTurn(Arena& arena, const char* name, std::initializer_list<int64_t> sizes) {
  return arena.Allocate(name, DType::kFloat32, {std::max(sizes)});
}

// Blocks take turns in two places, so that one is reduced while the next is computed. The first and
// the last bucket of backward share a third one, unless the head writes to the embedding's.
void AllocateTurns(Arena& arena, const FlatLayout& layout, bool tied, ModelMemory* memory) {
  const auto size = [&](size_t b) { return layout.buckets[b].end - layout.buckets[b].begin; };
  const size_t last = layout.buckets.size() - 1;
  const TensorView embedding =
      AllocateTurn(arena, "gradients.embedding", {size(0), tied ? 0 : size(last)});
  const TensorView head =
      tied ? AllocateTurn(arena, "gradients.final_ln", {size(last)}) : embedding;
  const TensorView blocks[] = {AllocateTurn(arena, "gradients.even_blocks", {size(1)}),
                               AllocateTurn(arena, "gradients.odd_blocks", {size(1)})};
  for (size_t b = 0; b <= last; ++b) {
    const TensorView place = b == 0 ? embedding : b == last ? head : blocks[b % 2];
    memory->bucket_grads.push_back(place.Rows(0, size(b)));
  }
}

void AllocateGradients(Arena& arena, const FlatLayout& layout, const ModelOptions& options,
                       bool tied, ModelMemory* memory) {
  const int64_t kept = options.shard_gradients ? layout.size / layout.data_size : layout.size;
  memory->flat_grads = arena.Allocate("gradients", DType::kFloat32, {kept});
  if (options.shard_gradients) {
    AllocateTurns(arena, layout, tied, memory);
  } else {
    for (const FlatLayout::Bucket& bucket : layout.buckets) {
      memory->bucket_grads.push_back(
          memory->flat_grads.Rows(bucket.begin, bucket.end - bucket.begin));
    }
  }
  for (size_t b = 0; b < layout.buckets.size(); ++b) {
    const FlatLayout::Bucket& bucket = layout.buckets[b];
    for (int i = bucket.first_param; i < bucket.end_param; ++i) {
      const auto param = static_cast<size_t>(i);
      const Shape& shape = layout.shapes[param];
      memory->grads.push_back(memory->bucket_grads[b]
                                  .Rows(layout.begins[param] - bucket.begin, shape.num_elements())
                                  .Reshaped(shape));
    }
  }
}

// What forward saves, in order of layers. Returns the ends in the arena: of layer l's part, which
// is needed until the gradients of layer l are written, and at last of the final LayerNorm's input.
std::vector<int64_t> AllocateSaved(Arena& arena, const ModelConfig& config,
                                   const ModelOptions& options, const BlockShape& shape,
                                   ModelMemory* memory) {
  const Shape width{shape.own_rows(), shape.C};
  std::vector<int64_t> ends;
  memory->residual.push_back(arena.Allocate("residual", shape.dtype, width));
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const std::string name = fmt::format("layers.{}", l);
    const bool own_blocks = l == 0 || (options.gradients && !options.recompute);
    memory->blocks.push_back(
        own_blocks ? AllocateBlockActivations(arena, name, shape, config.parallel_residual)
                   : memory->blocks.front());
    ends.push_back(arena.Mark());
    memory->residual.push_back(options.gradients
                                   ? arena.Allocate(name + ".residual", shape.dtype, width)
                                   : memory->residual.front());
  }
  ends.push_back(arena.Mark());
  return ends;
}

// Backward writes gradients from the last bucket of the flat vector to the first (embedding,
// layers, head) and needs activations from the last layer to the first. So the vector may begin
// among the activations: as early as lets no bucket reach into activations still needed when it is
// written. Recomputation writes the input of layer l + 1 again when only buckets above l + 1 are
// written.
void PlaceGradientsOver(Arena& arena, int64_t begin, const std::vector<int64_t>& ends,
                        const FlatLayout& layout) {
  CHECK_EQ(layout.buckets.size(), ends.size() + 1);
  int64_t gap = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    const int64_t bucket = layout.buckets[i + 1].begin * DTypeSize(DType::kFloat32);
    gap = std::max(gap, ends[i] - begin - bucket);
  }
  arena.Release(begin);
  if (gap > 0) arena.Allocate("before gradients", DType::kUInt8, {gap});
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
          .dtype = options.compute_dtype,
          .row_ranks = options.sequence ? tensor_size : 1};
}

ModelMemory AllocateModelMemory(const ModelConfig& config, const ModelOptions& options,
                                const FlatLayout& layout, int64_t tensor_size, Arenas& arenas) {
  ModelMemory memory;
  const DType dtype = options.compute_dtype;
  AllocateWeights(arenas.params, dtype, layout, &memory);

  Arena& arena = arenas.activations;
  const BlockShape shape = LargestBlock(config, options, tensor_size);
  const Shape table_shape{options.seq_length, config.rotary_dim() / 2};
  memory.cos = arena.Allocate("rotary.cos", DType::kFloat32, table_shape);
  memory.sin = arena.Allocate("rotary.sin", DType::kFloat32, table_shape);
  memory.final_ln = arena.Allocate("final_ln", dtype, {shape.M(), shape.C});
  memory.final_mean = arena.Allocate("final_mean", DType::kFloat32, {shape.M()});
  memory.final_rstd = arena.Allocate("final_rstd", DType::kFloat32, {shape.M()});
  memory.temporaries = AllocateBlockTemporaries(arena, shape, options.gradients);
  if (options.gradients) {
    memory.d_residual = arena.Allocate("d_residual", dtype, {shape.own_rows(), shape.C});
  }

  const int64_t begin = arena.Mark();
  const std::vector<int64_t> ends = AllocateSaved(arena, config, options, shape, &memory);
  memory.final_x = memory.residual.back();
  if (shape.row_ranks > 1) {
    memory.final_x = memory.temporaries.x;
    for (BlockActivations& block : memory.blocks) {
      block.ln1 = block.ln2 = memory.temporaries.norm;
    }
  }
  if (options.gradients) {
    const bool kept = KeepsGradients(config, options);
    if (!kept) PlaceGradientsOver(arena, begin, ends, layout);
    AllocateGradients(kept ? arenas.grads : arena, layout, options, config.tie_embeddings, &memory);
  }
  memory.grads.resize(memory.weights.size());
  return memory;
}

namespace {

bool IsFull(const LayerAttention& layer) { return layer.kind == AttentionKind::kFull; }

// cuDNN's scratch is for models with layers that it serves.
kernels::FullAttention FullAttentionOf(const ModelConfig& config, const ModelOptions& options) {
  const bool has = std::any_of(config.attention.begin(), config.attention.end(), IsFull);
  return has ? options.full_attention : kernels::FullAttention::kOwn;
}

}  // namespace

std::string DescribeAttention(const kernels::Context& ctx, const ModelConfig& config,
                              const ModelOptions& options, int64_t tensor_size) {
  const BlockShape s = LargestBlock(config, options, tensor_size);
  std::string full, sparse, layers;
  for (size_t i = 0; i < config.attention.size(); ++i) {
    if (IsFull(config.attention[i])) {
      full = kernels::FullAttentionKernelName(
          ctx, {s.B, s.T, s.H, s.D, s.dtype, options.num_threads, options.device});
      layers += fmt::format("{}{}", layers.empty() ? "" : ", ", i);
    } else {
      sparse = kernels::SepAttentionKernelName(ctx, s.dtype, s.D);
    }
  }
  if (full.empty() || full == sparse) return sparse + " in every layer";
  if (sparse.empty()) return full + " in every layer";
  return fmt::format("{} in layers {}, {} in the others", full, layers, sparse);
}

int64_t ModelScratchBytes(const ModelConfig& config, const ModelOptions& options,
                          int64_t tensor_size) {
  const BlockShape shape = LargestBlock(config, options, tensor_size);
  const int64_t vocab_size = config.vocab_size / tensor_size;
  // The largest matrix, of which the optimizer takes the norm.
  const int64_t largest =
      shape.C * std::max({config.vocab_size, config.intermediate_size, 3 * shape.C});
  return std::max(
      {BlockScratchBytes(shape, options.num_threads, options.device,
                         FullAttentionOf(config, options)),
       kernels::EmbeddingScratchBytes(shape.M(), vocab_size, options.device),
       kernels::SquaredNormScratchBytes(largest, options.device),
       kernels::LmHeadScratchBytes(shape.M(), shape.C, vocab_size, shape.dtype, options.num_threads,
                                   static_cast<int>(tensor_size), options.device)});
}

}  // namespace sepia::model
