#include "model/decoder.h"

#include <algorithm>

#include "base/device_memory.h"
#include "kernels/cached_attention.h"
#include "kernels/layer_norm.h"
#include "kernels/lm_head.h"
#include "kernels/rotary.h"
#include "kernels/sep_attention.h"
#include "model/model_memory.h"
#include "model/vocabulary_parallel.h"

namespace sepia::model {
namespace {

// A long prompt goes through the blocks in pieces of this many tokens. On a device a prompt that is
// one piece runs on the kernels of training, and pieces cost launches.
int64_t MostChunk(Device device) { return device == Device::kCpu ? 256 : 2048; }

BlockShape ChunkShape(const GptNeox& model, dist::Mesh& mesh, int64_t num_tokens) {
  ModelOptions options = model.options();
  options.batch_size = 1;
  options.seq_length = num_tokens;
  options.sequence = false;
  return LargestBlock(model.config(), options, mesh.tensor().size());
}

int64_t ScratchBytes(const kernels::Context& ctx, const GptNeox& model, dist::Mesh& mesh,
                     int64_t max_length) {
  const ModelConfig& config = model.config();
  const BlockShape chunk = ChunkShape(model, mesh, MostChunk(ctx.device));
  const int64_t attention =
      kernels::CachedAttentionScratchBytes({.num_new = std::min(chunk.T, max_length),
                                            .length = max_length,
                                            .num_heads = chunk.H,
                                            .head_dim = chunk.D,
                                            .dtype = chunk.dtype,
                                            .num_threads = ctx.num_threads,
                                            .device = ctx.device});
  if (ctx.device != Device::kCpu) return attention;  // no other op takes any in forward there
  return std::max(
      {attention, BlockScratchBytes(chunk, ctx.num_threads),
       BlockScratchBytes(ChunkShape(model, mesh, 1), ctx.num_threads),
       kernels::LmHeadScratchBytes(1, config.hidden_size, config.vocab_size / mesh.tensor().size(),
                                   chunk.dtype, ctx.num_threads)});
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

// `values` behind the first `begin` elements of `to`.
void Upload(std::span<const int32_t> values, const TensorView& to, size_t begin) {
  if (values.empty()) return;
  const auto count = static_cast<int64_t>(values.size());
  CopyTensor(ConstTensorView::Of(values, {count}), to.Rows(static_cast<int64_t>(begin), count));
}

}  // namespace

Decoder::Decoder(const kernels::Context& ctx, GptNeox& model, dist::Mesh& mesh, int64_t max_length)
    : model_(model),
      mesh_(mesh),
      max_length_(CheckedLength(model, max_length)),
      arena_("decoder"),
      scratch_("decoder scratch", ScratchBytes(ctx, model, mesh, max_length), ctx.device),
      ctx_{.device = ctx.device,
           .num_threads = ctx.num_threads,
           .scratch = &scratch_,
           .allow_fallback = ctx.allow_fallback} {
  CHECK(ctx.device == model.options().device, "a decoder runs where its model is");
  const ModelConfig& config = model.config();
  // Refuses what the device has no kernel for.
  kernels::SepAttentionKernelName(ctx_, model.options().compute_dtype, config.head_dim());
  Allocate(arena_);
  arena_ = Arena("decoder", arena_.used_bytes(), ctx.device);
  Allocate(arena_);
  WriteFromHost(cos_, [&](TensorView cos) {
    WriteFromHost(sin_, [&](TensorView sin) {
      kernels::BuildRotaryTables(model.options().rotary_tables, config.rotary_base, cos, sin);
    });
  });
  for (const AttentionIndexSpec& spec : model.attention_plan().specs) {
    indexes_.emplace_back(spec, max_length);
  }
}

void Decoder::Allocate(Arena& arena) {
  const ModelConfig& config = model_.config();
  const int64_t chunk = std::min(MostChunk(ctx_.device), max_length_);
  const BlockShape shape = ChunkShape(model_, mesh_, chunk);
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
  far_positions_.clear();
  far_count_.clear();
  for (size_t i = 0; !on_host() && i < model_.attention_plan().specs.size(); ++i) {
    far_positions_.push_back(
        arena.Allocate(fmt::format("indexes.{}.positions", i), DType::kInt32, {max_length_}));
    far_count_.push_back(
        arena.Allocate(fmt::format("indexes.{}.count", i), DType::kInt32, {max_length_}));
  }
  if (!on_host()) tokens_ = arena.Allocate("tokens", DType::kInt32, {chunk});
  residual_ = arena.Allocate("residual", shape.dtype, {shape.T, shape.C});
  activations_ = AllocateBlockActivations(arena, "block", shape, config.parallel_residual);
  temporaries_ = AllocateBlockTemporaries(arena, shape, /*gradients=*/false);
  final_ln_ = arena.Allocate("final_ln", shape.dtype, {1, shape.C});
  mean_ = arena.Allocate("final_mean", DType::kFloat32, {1});
  rstd_ = arena.Allocate("final_rstd", DType::kFloat32, {1});
  logits_ = arena.Allocate("logits", DType::kFloat32, {1, config.vocab_size});
}

void Decoder::AppendToIndexes(std::span<const int32_t> chunk) {
  for (size_t i = 0; i < indexes_.size(); ++i) {
    const AttentionIndex& index = indexes_[i].index();
    const auto length = static_cast<size_t>(index.seq_length());
    const size_t packed = index.positions(0).size();
    indexes_[i].Append(chunk);
    if (on_host()) continue;
    Upload(index.positions(0).subspan(packed), far_positions_[i], packed);
    Upload(index.count(0).subspan(length), far_count_[i], length);
  }
}

// On the host the ops look at the ids.
ConstTensorView Decoder::TokensOnDevice(std::span<const int32_t> chunk) const {
  const auto count = static_cast<int64_t>(chunk.size());
  const ConstTensorView tokens = ConstTensorView::Of(chunk, {1, count});
  if (on_host()) return tokens;
  for (const int32_t id : chunk) {
    CHECK(id >= 0 && id < model_.config().vocab_size, "token {} of a vocabulary of {}", id,
          model_.config().vocab_size);
  }
  Upload(chunk, tokens_, 0);
  return ConstTensorView(tokens_.raw(), DType::kInt32, {1, count}, ctx_.device);
}

// Extends every layer's cache; leaves the residual stream of the chunk in residual_.
void Decoder::RunChunk(std::span<const int32_t> chunk) {
  const ModelConfig& config = model_.config();
  const auto num_new = static_cast<int64_t>(chunk.size());
  const int64_t begin = length();
  length_ += num_new;
  AppendToIndexes(chunk);

  const AttentionPlan& plan = model_.attention_plan();
  const BlockShape shape = ChunkShape(model_, mesh_, num_new);
  const BlockActivations activations = Narrow(activations_, shape);
  const TensorView x = residual_.Rows(0, num_new);
  const ResidualRows rows(mesh_.tensor(), num_new);
  EmbedTokens(ctx_, mesh_, rows, TokensOnDevice(chunk),
              model_.weight(model_.parameters().embedding()), temporaries_.partial, x);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const auto l = static_cast<size_t>(layer);
    const AttentionPlan::Layer& attention = plan.layers[l];
    KeyValueCache cache{.keys = keys_[l], .values = values_[l], .begin = begin};
    const AttentionIndex* index = nullptr;
    if (attention.index >= 0) {
      const auto i = static_cast<size_t>(attention.index);
      index = &indexes_[i].index();
      if (!on_host()) cache.far_keys = {far_positions_[i], far_count_[i]};
    }
    const BlockContext block{.rows = rows,
                             .recompute_norms = false,
                             .parallel_residual = config.parallel_residual,
                             .gelu = config.activation,
                             .layer_norm_eps = static_cast<float>(config.layer_norm_eps),
                             .cos = TensorView(cos_.Rows(begin, num_new)),
                             .sin = TensorView(sin_.Rows(begin, num_new)),
                             .index = index,
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
  const int64_t chunk = residual_.dim(0);
  int64_t last = 0;
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t size = std::min(chunk, count - begin);
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
  if (on_host()) return logits_.span<float>();
  host_logits_.resize(static_cast<size_t>(logits_.num_elements()));
  CopyTensor(logits_, TensorView::Of(std::span(host_logits_), logits_.shape()));
  return host_logits_;
}

}  // namespace sepia::model
