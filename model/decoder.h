// Generation: one sequence, extended token by token, with a plain cache of keys and values. The
// model's visibility rule applies to the cache as in training, so logits are those of a full
// forward pass (up to rounding).
//
//   Decoder decoder(ctx, model, mesh, /*max_length=*/512);
//   std::span<const float> logits = decoder.Append(prompt);
//   logits = decoder.Append({&next, 1});
//
// A few tokens a step are not worth sharing: every tensor rank has all rows of the residual stream,
// also when training shares them (sequence parallelism).
// Reads the model's weights only: a model in training may generate between steps. Collective over
// mesh.tensor(), where every rank gets the whole logits.
//
// On a device, the cache and everything else are in its memory. A token costs the copies of its id
// and of what it adds to the packed keys, and one wait for its logits. Full attention runs on
// Sepia's kernels, whatever serves it in training.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.h"
#include "base/attention_index.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/block.h"
#include "model/gpt_neox.h"

namespace sepia::model {

class Decoder {
 public:
  // Runs on ctx.device, the model's, with scratch of its own. Throws UserError when max_length is
  // past the model's max_positions, or ctx.allow_fallback forbids the only kernel.
  Decoder(const kernels::Context& ctx, GptNeox& model, dist::Mesh& mesh, int64_t max_length);

  // Tokens so far.
  int64_t length() const { return length_; }
  int64_t max_length() const { return max_length_; }

  // Appends at least one token, each in [0, V). Returns the logits [V] that predict the token after
  // the last one; they stay valid until the next call.
  std::span<const float> Append(std::span<const int32_t> tokens);

 private:
  bool on_host() const { return ctx_.device == Device::kCpu; }
  void Allocate(Arena& arena);
  void AppendToIndexes(std::span<const int32_t> chunk);
  ConstTensorView TokensOnDevice(std::span<const int32_t> chunk) const;
  void RunChunk(std::span<const int32_t> chunk);

  GptNeox& model_;
  dist::Mesh& mesh_;
  int64_t max_length_;
  int64_t length_ = 0;
  std::vector<GrowingAttentionIndex> indexes_;  // by AttentionPlan's specs
  Arena arena_;
  Arena scratch_;
  kernels::Context ctx_;

  TensorView cos_, sin_;                   // [max_length, rotary_dim / 2]
  std::vector<TensorView> keys_, values_;  // a layer: [max_length, H, D]
  // Of each index, and the chunk's ids; on a device only.
  std::vector<TensorView> far_positions_, far_count_;  // [max_length]
  TensorView tokens_;                                  // [chunk]
  TensorView residual_;                                // [chunk, C]
  BlockActivations activations_;
  BlockTemporaries temporaries_;
  TensorView final_ln_, mean_, rstd_;  // of the last token: [1, C], [1], [1]
  TensorView logits_;                  // [1, V]
  std::vector<float> host_logits_;     // their copy from a device
};

}  // namespace sepia::model
