#include "model/decoder.h"

#include <algorithm>

#include "kernels/cached_attention.h"
#include "kernels/layer_norm.h"
#include "kernels/lm_head.h"
#include "kernels/rotary.h"
#include "model/model_memory.h"
#include "model/vocabulary_parallel.h"

namespace sepia::model {
namespace {

// A long prompt goes through the blocks in pieces of this many tokens.
constexpr int64_t kChunk = 256;

BlockShape ChunkShape(const GptNeox& model, dist::Mesh& mesh, int64_t num_tokens) {
  ModelOptions options = model.options();
  options.batch_size = 1;
  options.seq_length = num_tokens;
  options.sequence = false;
  return LargestBlock(model.config(), options, mesh.tensor().size());
}

int64_t ScratchBytes(const GptNeox& model, dist::Mesh& mesh, int64_t max_length, int num_threads) {
  const ModelConfig& config = model.config();
  return std::max(
      {BlockScratchBytes(ChunkShape(model, mesh, kChunk), num_threads),
       BlockScratchBytes(ChunkShape(model, mesh, 1), num_threads),
       kernels::CachedAttentionScratchBytes(max_length, num_threads),
       kernels::LmHeadScratchBytes(1, config.hidden_size, config.vocab_size / mesh.tensor().size(),
                                   model.options().compute_dtype, num_threads)});
}

int64_t CheckedLength(const GptNeox& model, int64_t max_length) {
  const int64_t max_positions = model.config().max_positions;
  if (max_length > max_positions) {
    throw UserError(
        fmt::format("prompt and new tokens together are {} tokens, but the model has {} positions; "
                    "shorten the prompt or ask for fewer tokens",
                    max_length, max_positions));
  }
  CHECK_GE(max_length, 1);
  return max_length;
}

}  // namespace

Decoder::Decoder(GptNeox& model, dist::Mesh& mesh, int64_t max_length, int num_threads)
    : model_(model),
      mesh_(mesh),
      max_length_(CheckedLength(model, max_length)),
      arena_("decoder"),
      scratch_("decoder scratch", ScratchBytes(model, mesh, max_length, num_threads)),
      ctx_{.num_threads = num_threads, .scratch = &scratch_} {
  Allocate(arena_);
  arena_ = Arena("decoder", arena_.used_bytes());
  Allocate(arena_);
  kernels::BuildRotaryTables(model.options().rotary_tables, model.config().rotary_base, cos_, sin_);
  for (const AttentionIndexSpec& spec : model.attention_plan().specs) {
    indexes_.emplace_back(spec, max_length);
  }
}

void Decoder::Allocate(Arena& arena) {
  const ModelConfig& config = model_.config();
  const BlockShape shape = ChunkShape(model_, mesh_, std::min(kChunk, max_length_));
  const Shape tables{max_length_, config.rotary_dim() / 2};
  cos_ = arena.Allocate("rotary.cos", DType::kFloat32, tables);
  sin_ = arena.Allocate("rotary.sin", DType::kFloat32, tables);
  keys_.clear();
  values_.clear();
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const Shape cache{max_length_, shape.H, shape.D};
    keys_.push_back(arena.Allocate(fmt::format("layers.{}.keys", layer), shape.dtype, cache));
    values_.push_back(arena.Allocate(fmt::format("layers.{}.values", layer), shape.dtype, cache));
  }
  residual_ = arena.Allocate("residual", shape.dtype, {shape.T, shape.C});
  activations_ = AllocateBlockActivations(arena, "block", shape, config.parallel_residual);
  temporaries_ = AllocateBlockTemporaries(arena, shape, /*gradients=*/false);
  final_ln_ = arena.Allocate("final_ln", shape.dtype, {1, shape.C});
  mean_ = arena.Allocate("final_mean", DType::kFloat32, {1});
  rstd_ = arena.Allocate("final_rstd", DType::kFloat32, {1});
  logits_ = arena.Allocate("logits", DType::kFloat32, {1, config.vocab_size});
}

// Extends every layer's cache; leaves the residual stream of the chunk in residual_.
void Decoder::RunChunk(std::span<const int32_t> chunk) {
  const ModelConfig& config = model_.config();
  const auto num_new = static_cast<int64_t>(chunk.size());
  const int64_t begin = length();
  length_ += num_new;
  for (GrowingAttentionIndex& index : indexes_) index.Append(chunk);

  const AttentionPlan& plan = model_.attention_plan();
  const BlockShape shape = ChunkShape(model_, mesh_, num_new);
  const BlockActivations activations = Narrow(activations_, shape);
  const TensorView x = residual_.Rows(0, num_new);
  const ResidualRows rows(mesh_.tensor(), num_new);
  EmbedTokens(ctx_, mesh_, rows, ConstTensorView::Of(chunk, {1, num_new}),
              model_.weight(model_.parameters().embedding()), temporaries_.partial, x);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const auto l = static_cast<size_t>(layer);
    const AttentionPlan::Layer& attention = plan.layers[l];
    const KeyValueCache cache{.keys = keys_[l], .values = values_[l], .begin = begin};
    const BlockContext block{.rows = rows,
                             .recompute_norms = false,
                             .parallel_residual = config.parallel_residual,
                             .gelu = config.activation,
                             .layer_norm_eps = static_cast<float>(config.layer_norm_eps),
                             .cos = TensorView(cos_.Rows(begin, num_new)),
                             .sin = TensorView(sin_.Rows(begin, num_new)),
                             .index = attention.index < 0
                                          ? nullptr
                                          : &indexes_[static_cast<size_t>(attention.index)].index(),
                             .window = attention.window,
                             .cache = &cache};
    BlockForward(ctx_, {.block = block,
                        .weights = model_.block_weights(layer),
                        .x = x,
                        .activations = activations,
                        .temporaries = temporaries_,
                        .y = x});
  }
}

std::span<const float> Decoder::Append(std::span<const int32_t> tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  CHECK(count >= 1 && length() + count <= max_length_, "{} tokens after {} of {}", count, length(),
        max_length_);
  int64_t last = 0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t size = std::min(kChunk, count - begin);
    RunChunk(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(size)));
    last = size - 1;
  }
  const ParameterTable& table = model_.parameters();
  kernels::LayerNormForward(ctx_, {.x = TensorView(residual_.Rows(last, 1)),
                                   .gamma = model_.weight(table.final_gamma()),
                                   .beta = model_.weight(table.final_beta()),
                                   .y = final_ln_,
                                   .mean = mean_,
                                   .rstd = rstd_,
                                   .eps = static_cast<float>(model_.config().layer_norm_eps)});
  WholeLogits(ctx_, mesh_, final_ln_, model_.matrix(table.head()), logits_);
  return logits_.span<float>();
}

}  // namespace sepia::model
