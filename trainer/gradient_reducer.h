// Sums gradients over data ranks, bucket by bucket, while the backward pass goes on.
//
//   for (int64_t i = 0; i < n; ++i) {
//     const auto gradients = reducer.MicroBatch(ctx, i, n);
//     model.Backward(ctx, batch, {..., .grad_mode = gradients.mode,
//                                 .gradients_ready = gradients.ready});
//   }
//   reducer.Finish(ctx);
//
// Buckets are reduced from the last one to the first, the order of backward, on every rank.
// A model with whole gradients is reduced once a step. One whose buckets take turns in memory
// (ModelOptions::shard_gradients, ZeRO-2) is reduced every micro-batch, and each rank adds up its
// slices. Not thread-safe; collective over both groups.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "dist/communicator.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"

namespace sepia::trainer {

class GradientReducer {
 public:
  // Ranks of `slices` receive different slices of every bucket; those of `replicas` the same.
  // With `overlap`, reductions run while backward goes on; otherwise after it. The bits are the
  // same.
  GradientReducer(model::GptNeox& model, dist::Communicator& slices, dist::Communicator& replicas,
                  bool overlap);

  // Between steps, on all ranks alike.
  void set_overlap(bool overlap) { overlap_ = overlap; }

  // What Backward is to be told for micro-batch `index` of `count`.
  struct Gradients {
    GradMode mode;
    std::function<void(int begin, int end)> ready;  // may be null
  };
  Gradients MicroBatch(kernels::Context& ctx, int64_t index, int64_t count);

  // Starts what was not started and waits for everything.
  void Finish(kernels::Context& ctx);

  // A range of this rank's slices after Finish.
  TensorView Reduced(const model::Piece& piece) const;

 private:
  struct Reduction {
    size_t bucket;
    dist::Pending scatter, sum;
  };

  TensorView Own(size_t bucket) const;
  void Ready(kernels::Context& ctx, int begin, int end);
  void Start(kernels::Context& ctx, size_t bucket);
  // Waits until at most `count` reductions are under way.
  void FinishAllBut(kernels::Context& ctx, size_t count);

  model::GptNeox& model_;
  dist::Communicator& slices_;
  dist::Communicator& replicas_;
  bool overlap_;
  const bool sharded_;
  std::deque<Reduction> under_way_;
  int64_t num_started_ = 0;                     // buckets, from the last one on
  GradMode slice_mode_ = GradMode::kOverwrite;  // of sharded gradients: first micro-batch or not
};

}  // namespace sepia::trainer
