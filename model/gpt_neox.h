// The GPT-NeoX / Pythia model: embedding, L blocks, final LayerNorm, LM head with the loss.
//
//   model.Forward(ctx, batch);
//   model.Backward(ctx, batch, {...});     // head and loss, then blocks L-1 .. 0, then embedding
// or, without gradients:
//   model.Forward(ctx, batch); model.Loss(...) / model.Logits(...);
//
// Shapes: B batch, T sequence, C width, H heads, D head dim, F = MLP width, V vocabulary, L layers
// (legend in model/README.md). Not thread-safe; one model per rank.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/arena.h"
#include "base/batch.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "kernels/device_graphs.h"
#include "kernels/rotary.h"
#include "kernels/weight.h"
#include "model/model_config.h"
#include "model/parameters.h"
#include "model/sharding.h"

namespace sepia::model {

struct BlockWeights;

struct ModelOptions {
  DType compute_dtype = DType::kFloat32;  // weights, saved activations, residual stream
  int64_t batch_size = 1;                 // rows of a micro-batch at most
  int64_t seq_length = 0;                 // T at most
  bool gradients = true;                  // false: inference; no gradient or activation arenas
  // Only one data rank's slice of the gradients is kept, and buckets take turns in the memory that
  // backward writes to (ZeRO-2): the listener of BackwardArgs has to reduce each one in time.
  bool shard_gradients = false;
  bool recompute = false;             // save block inputs only, recompute the rest
  bool sequence = false;              // tensor ranks share the rows of the residual stream
  int64_t sequence_chunk_rows = 512;  // rows that travel while others are computed, about
  // False: gradients live from Backward to the next Forward only, in memory of activations that
  // backward no longer needs. For steps of one micro-batch; tied embeddings and sharded gradients
  // have memory of their own all the same.
  bool keep_gradients = true;
  kernels::RotaryTables rotary_tables = kernels::RotaryTables::kFp32;
  int num_threads = 1;
  Device device = Device::kCpu;  // of all tensors and ops of the model
  // As in the Context of the calls; scratch is planned for it.
  kernels::FullAttention full_attention = kernels::FullAttention::kOwn;
  bool graphs = false;  // on a device: batches differ in few ways, see KeyOf
};

// Bytes of each arena, from the same code that allocates them. Activations that lie in the
// gradients' memory are not counted again.
struct MemoryPlan {
  int64_t params = 0;
  int64_t grads = 0;
  int64_t activations = 0;
  int64_t scratch = 0;
};

// Under tensor parallelism each rank of mesh.tensor() holds a shard of every matrix, and calls that
// compute are collective over that group.
class GptNeox {
 public:
  // The tensor size must divide heads, MLP width and vocabulary (the config's checks say so
  // kindly).
  GptNeox(const ModelConfig& config, const ModelOptions& options, dist::Mesh& mesh);
  ~GptNeox();

  // Of one rank.
  static MemoryPlan Plan(const ModelConfig& config, const ModelOptions& options,
                         int64_t tensor_size = 1, int64_t data_size = 1);

  const ModelConfig& config() const;
  const ModelOptions& options() const;
  const ParameterTable& parameters() const;
  // Which indexes a Batch must bring.
  const AttentionPlan& attention_plan() const;

  // Scratch for Context: sized for every op of this model.
  Arena& scratch();

  // Local shard of parameter i: compute-dtype weight and fp32 gradient.
  TensorView weight(int i);
  TensorView grad(int i);
  // All of them as one vector each, in the order of layout(); the padding of gradients is zero.
  // With shard_gradients, grads() is this data rank's slices, one bucket after the other, and
  // belongs to whoever reduces.
  TensorView weights();
  TensorView grads();
  // The gradients of a bucket with their padding: where Backward writes.
  TensorView bucket_grads(size_t bucket);
  const FlatLayout& layout() const;
  // Weights as the ops take them: for matrix products, and of a whole layer.
  const kernels::Weight& matrix(int i) const;
  BlockWeights block_weights(int64_t layer) const;

  // DescribeAttention (model/model_memory.h) of this model's layers on this rank.
  std::string DescribeAttention(const kernels::Context& ctx) const;

  // Tells packed copies that weight i was rewritten. The optimizer calls it after an update.
  void WeightChanged(int i);
  // weight(i) = values (fp32, local shape, on the host) rounded to the compute dtype.
  void SetWeight(kernels::Context& ctx, int i, ConstTensorView values);

  // Embedding .. final LayerNorm; saves what Backward needs. The calls below take the batch of the
  // last Forward, its tokens and targets in [0, vocab_size). A batch may be smaller than the
  // options say, or have no rows: then nothing is read and its gradients are zero.
  // `weights_needed`, when set, is called before the weights of parameters [begin, end) are read
  // for the first time: embedding, blocks, final LayerNorm and head. ZeRO waits for them there.
  void Forward(kernels::Context& ctx, const Batch& batch,
               const std::function<void(int begin, int end)>& weights_needed = nullptr);

  // The parts of Forward. Prefetch, which may be left out, starts the copy of the batch that is
  // loaded next to the device, beside what that computes. Load makes it the one to compute on. Only
  // ForwardLoaded and Backward enqueue work that a graph can hold: with ModelOptions::graphs, the
  // same work for every batch of equal key.
  void Prefetch(const Batch& batch);
  void Load(const Batch& batch);
  void ForwardLoaded(kernels::Context& ctx, const Batch& batch,
                     const std::function<void(int begin, int end)>& weights_needed = nullptr);
  // Of the batch that was loaded last.
  kernels::GraphKey KeyOf(const Batch& batch) const;

  // loss_sum (+)= sum of losses over unmasked targets ([1] f64). After Forward.
  void Loss(kernels::Context& ctx, const Batch& batch, TensorView loss_sum, GradMode mode);

  // logits of every position, [B, T, V] fp32. After Forward.
  void Logits(kernels::Context& ctx, const Batch& batch, TensorView logits);

  struct BackwardArgs {
    ConstTensorView grad_scale;  // [1] fp32: loss scale / targets of the global batch
    TensorView loss_sum;         // [1] f64
    GradMode loss_mode;
    GradMode grad_mode;  // kOverwrite on the first micro-batch of a step; always, if not kept
    // Called, when set, as soon as the gradients of parameters [begin, end) are final: head and
    // final LayerNorm, blocks L-1 .. 0, embedding. A trainer sets it on the last micro-batch of a
    // step and starts reductions that overlap the rest of backward. With shard_gradients a call
    // must not return before the bucket of the call before is free again.
    std::function<void(int begin, int end)> gradients_ready = nullptr;
  };
  // Uses up what Forward saved: a Forward before each Backward.
  void Backward(kernels::Context& ctx, const Batch& batch, const BackwardArgs& args);

  // Adds up, over tensor ranks, the gradients of which each rank has a part
  // (ParamSpec::partial_gradient). Once a step, after the last Backward.
  void SumPartialGradients(kernels::Context& ctx);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sepia::model
