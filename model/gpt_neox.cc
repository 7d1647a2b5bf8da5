#include "model/gpt_neox.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/device_memory.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/layer_norm.h"
#include "kernels/lm_head.h"
#include "model/gpt_neox_state.h"
#include "model/vocabulary_parallel.h"

namespace sepia::model {

using kernels::Context;

GptNeox::GptNeox(const ModelConfig& config, const ModelOptions& options, dist::Mesh& mesh) {
  const int tensor_size = mesh.tensor().size();
  CHECK(config.num_heads % tensor_size == 0 && config.intermediate_size % tensor_size == 0 &&
            config.vocab_size % tensor_size == 0,
        "a model of {} heads, {} inner features and {} tokens over {} tensor ranks",
        config.num_heads, config.intermediate_size, config.vocab_size, tensor_size);
  CHECK_LE(options.seq_length, config.max_positions);
  state_ = std::make_unique<State>(config, options, mesh);
}

GptNeox::~GptNeox() = default;

MemoryPlan GptNeox::Plan(const ModelConfig& config, const ModelOptions& options,
                         int64_t tensor_size, int64_t data_size) {
  Arenas arenas{Arena("params"), Arena("grads"), Arena("activations")};
  const FlatLayout layout(ParameterTable(config), tensor_size, data_size);
  AllocateModelMemory(config, options, layout, tensor_size, arenas);
  const bool shared = options.gradients && !KeepsGradients(config, options);
  const int64_t over = shared ? layout.size * DTypeSize(DType::kFloat32) : 0;
  return {.params = arenas.params.used_bytes(),
          .grads = arenas.grads.used_bytes() + over,
          .activations = arenas.activations.high_water_bytes() - over,
          .scratch = ModelScratchBytes(config, options, tensor_size)};
}

const ModelConfig& GptNeox::config() const { return state_->config; }
const ModelOptions& GptNeox::options() const { return state_->options; }
const ParameterTable& GptNeox::parameters() const { return state_->table; }
const AttentionPlan& GptNeox::attention_plan() const { return state_->plan; }
Arena& GptNeox::scratch() { return state_->scratch; }

TensorView GptNeox::weight(int i) { return state_->memory.weights[static_cast<size_t>(i)]; }
TensorView GptNeox::grad(int i) { return state_->memory.grads[static_cast<size_t>(i)]; }

TensorView GptNeox::weights() { return state_->memory.flat_weights; }
TensorView GptNeox::grads() { return state_->memory.flat_grads; }
TensorView GptNeox::bucket_grads(size_t bucket) { return state_->memory.bucket_grads[bucket]; }
const FlatLayout& GptNeox::layout() const { return state_->layout; }

const kernels::Weight& GptNeox::matrix(int i) const {
  return state_->matrices[static_cast<size_t>(i)];
}
BlockWeights GptNeox::block_weights(int64_t layer) const { return state_->Weights(layer); }

std::string GptNeox::DescribeAttention(const Context& ctx) const {
  return model::DescribeAttention(ctx, state_->config, state_->options, state_->tensor_size);
}

void GptNeox::WeightChanged(int i) { ++state_->matrices[static_cast<size_t>(i)].version; }

void GptNeox::SetWeight(Context& ctx, int i, ConstTensorView values) {
  Context host{.num_threads = ctx.num_threads};
  WriteFromHost(weight(i), [&](TensorView rounded) { kernels::Cast(host, values, rounded); });
  WeightChanged(i);
}

void GptNeox::Prefetch(const Batch& batch) { state_->inputs.Prefetch(batch); }

void GptNeox::Load(const Batch& batch) { state_->inputs.Load(batch); }

kernels::GraphKey GptNeox::KeyOf(const Batch& batch) const {
  return {.shape = {batch.batch_size, batch.seq_length, batch.loss_mask.empty() ? 0 : 1},
          .grids = state_->inputs.geometry()};
}

void GptNeox::Forward(Context& ctx, const Batch& batch,
                      const std::function<void(int begin, int end)>& weights_needed) {
  Load(batch);
  ForwardLoaded(ctx, batch, weights_needed);
}

void GptNeox::ForwardLoaded(Context& ctx, const Batch& batch,
                            const std::function<void(int begin, int end)>& weights_needed) {
  State& s = *state_;
  const BlockShape shape = s.ShapeOf(batch);
  if (shape.M() == 0) return;
  const auto need_bucket = [&](size_t number) {
    const FlatLayout::Bucket& bucket = s.layout.buckets[number];
    if (weights_needed) weights_needed(bucket.first_param, bucket.end_param);
  };
  s.has_activations = true;
  const int64_t num_layers = s.config.num_layers;
  const ResidualRows rows = s.RowsOf(shape);
  need_bucket(0);
  EmbedTokens(ctx, s.mesh, rows, s.inputs.tokens(batch), weight(s.table.embedding()),
              s.memory.temporaries.partial, s.Residual(0, shape));
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    need_bucket(static_cast<size_t>(layer + 1));
    s.RunBlock(ctx, batch, layer, rows);
  }
  need_bucket(s.layout.buckets.size() - 1);
  GatheredRows x =
      rows.Gather(ctx, s.Residual(num_layers, shape), s.memory.final_x, "final_ln.forward");
  x.WaitForAll();
  kernels::LayerNormForward(ctx, {.x = x.rows(),
                                  .gamma = weight(s.table.final_gamma()),
                                  .beta = weight(s.table.final_beta()),
                                  .y = Prefix(s.memory.final_ln, {shape.M(), shape.C}),
                                  .mean = Prefix(s.memory.final_mean, {shape.M()}),
                                  .rstd = Prefix(s.memory.final_rstd, {shape.M()}),
                                  .eps = static_cast<float>(s.config.layer_norm_eps)});
}

void GptNeox::Loss(Context& ctx, const Batch& batch, TensorView loss_sum, GradMode mode) {
  const State& s = *state_;
  const BlockShape shape = s.ShapeOf(batch);
  if (shape.M() == 0) {
    if (mode == GradMode::kOverwrite) kernels::Zero(ctx, loss_sum);
    return;
  }
  kernels::LmHeadLoss(ctx, {.x = Prefix(s.memory.final_ln, {shape.M(), shape.C}),
                            .weight = matrix(s.table.head()),
                            .targets = s.inputs.targets(batch),
                            .loss_mask = s.inputs.loss_mask(batch),
                            .loss_sum = loss_sum,
                            .loss_mode = mode,
                            .grad_scale = {},
                            .dx = {},
                            .dweight = {},
                            .vocabulary = VocabularyPartOf(s.mesh),
                            .gather_statistics = GatherOverVocabulary(ctx, s.mesh)});
}

void GptNeox::Logits(Context& ctx, const Batch& batch, TensorView logits) {
  const State& s = *state_;
  const BlockShape shape = s.ShapeOf(batch);
  if (shape.M() == 0) return;
  WholeLogits(ctx, s.mesh, Prefix(s.memory.final_ln, {shape.M(), shape.C}), matrix(s.table.head()),
              logits.Reshaped({shape.M(), s.config.vocab_size}));
}

// Loss, head and final LayerNorm; leaves the gradient of the last residual in d_residual.
void GptNeox::State::HeadBackward(Context& ctx, const Batch& batch, const ResidualRows& rows,
                                  const BackwardArgs& args) {
  const BlockShape shape = ShapeOf(batch);
  const auto head = static_cast<size_t>(table.head());
  const auto gamma = static_cast<size_t>(table.final_gamma());
  const auto beta = static_cast<size_t>(table.final_beta());
  const Shape width{shape.M(), shape.C};
  const TensorView d_final = Prefix(memory.temporaries.d_width, width);
  const TensorView dx = Prefix(memory.d_residual, {shape.own_rows(), shape.C});
  const TensorView partial = rows.PlaceForPartial(dx, memory.temporaries.partial);
  kernels::LmHeadLoss(ctx, {.x = Prefix(memory.final_ln, width),
                            .weight = matrices[head],
                            .targets = inputs.targets(batch),
                            .loss_mask = inputs.loss_mask(batch),
                            .loss_sum = args.loss_sum,
                            .loss_mode = args.loss_mode,
                            .grad_scale = args.grad_scale,
                            .dx = d_final,
                            .dweight = memory.grads[head],
                            .grad_mode = args.grad_mode,
                            .vocabulary = VocabularyPartOf(mesh),
                            .gather_statistics = GatherOverVocabulary(ctx, mesh)});
  kernels::LayerNormBackward(ctx, {.x = Prefix(memory.final_x, width),
                                   .gamma = memory.weights[gamma],
                                   .mean = Prefix(memory.final_mean, {shape.M()}),
                                   .rstd = Prefix(memory.final_rstd, {shape.M()}),
                                   .dy = d_final,
                                   .dx = partial.Rows(0, shape.M()),
                                   .dgamma = memory.grads[gamma],
                                   .dbeta = memory.grads[beta],
                                   .grad_mode = args.grad_mode});
  RowSum sum = rows.Sum(partial, dx, "head.backward");
  for (const RowChunk& chunk : rows.chunks()) sum.Start(ctx, chunk);
  sum.Wait();
}

void GptNeox::Backward(Context& ctx, const Batch& batch, const BackwardArgs& args) {
  State& s = *state_;
  CHECK(s.options.gradients, "Backward of a model built without gradients");
  const BlockShape shape = s.ShapeOf(batch);
  const ParameterTable& table = s.table;
  const int num_parameters = static_cast<int>(table.specs().size());
  const bool kept = s.KeepsGradients();
  CHECK(kept || args.grad_mode == GradMode::kOverwrite, "gradients to add to were not kept");
  const auto ready = [&](int begin, int end) {
    // Kept gradients got theirs once; others lie where activations were.
    if (!kept) {
      ZeroPadding(s.layout, static_cast<size_t>(begin), static_cast<size_t>(end), grads());
    }
    if (args.gradients_ready) args.gradients_ready(begin, end);
  };
  if (shape.M() == 0) {
    if (args.loss_mode == GradMode::kOverwrite) kernels::Zero(ctx, args.loss_sum);
    for (size_t b = s.layout.buckets.size(); b-- > 0;) {
      if (args.grad_mode == GradMode::kOverwrite) kernels::Zero(ctx, bucket_grads(b));
      ready(s.layout.buckets[b].first_param, s.layout.buckets[b].end_param);
    }
    return;
  }

  CHECK(std::exchange(s.has_activations, false), "Backward without a Forward before it");
  const ResidualRows rows = s.RowsOf(shape);
  s.HeadBackward(ctx, batch, rows, args);
  ready(table.final_gamma(), num_parameters);

  const int64_t num_layers = s.config.num_layers;
  const TensorView dx = Prefix(s.memory.d_residual, {shape.own_rows(), shape.C});
  for (int64_t layer = num_layers - 1; layer >= 0; --layer) {
    // Forward left the last block's activations in the shared memory.
    if (s.options.recompute && layer != num_layers - 1) s.RunBlock(ctx, batch, layer, rows);
    BlockBackward(ctx, {.block = s.Block(layer, batch, rows),
                        .weights = s.Weights(layer),
                        .x = s.Residual(layer, shape),
                        .activations = Narrow(s.memory.blocks[static_cast<size_t>(layer)], shape),
                        .temporaries = s.memory.temporaries,
                        .gradients = s.Gradients(layer),
                        .grad_mode = args.grad_mode,
                        .dx = dx});
    const int first = table.block(layer, BlockParam::kLn1Gamma);
    ready(first, first + static_cast<int>(BlockParam::kCount));
  }

  GatheredRows dy = rows.Gather(ctx, dx, s.memory.temporaries.dy, "embedding.backward");
  dy.WaitForAll();
  // A tied matrix already holds the head's gradient.
  kernels::EmbeddingBackward(
      ctx, {.tokens = s.inputs.tokens(batch),
            .dy = dy.rows().Reshaped({shape.B, shape.T, shape.C}),
            .dtable = grad(table.embedding()),
            .grad_mode = s.config.tie_embeddings ? GradMode::kAccumulate : args.grad_mode,
            .vocabulary = VocabularyPartOf(s.mesh)});
  ready(table.embedding(), table.embedding() + 1);
}

void GptNeox::SumPartialGradients(Context& ctx) {
  const State& s = *state_;
  CHECK(!s.options.shard_gradients, "whoever reduces sharded gradients adds up their parts");
  std::vector<TensorView> parts;
  for (size_t i = 0; i < s.memory.grads.size(); ++i) {
    if (s.table.specs()[i].partial_gradient) parts.push_back(s.memory.grads[i]);
  }
  state_->partial_sums.Add(ctx, s.mesh, parts);
}

}  // namespace sepia::model
