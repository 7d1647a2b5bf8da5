#include "trainer/gradient_reducer.h"

#include <utility>

#include "base/check.h"
#include "kernels/elementwise.h"

namespace sepia::trainer {

GradientReducer::GradientReducer(model::GptNeox& model, dist::Communicator& slices,
                                 dist::Communicator& replicas, bool overlap)
    : model_(model),
      slices_(slices),
      replicas_(replicas),
      overlap_(overlap),
      sharded_(model.options().shard_gradients) {
  CHECK(slices.size() == 1 || replicas.size() == 1, "groups do not wait for each other");
}

GradientReducer::Gradients GradientReducer::MicroBatch(kernels::Context& ctx, int64_t index,
                                                       int64_t count) {
  const GradMode mode = index == 0 ? GradMode::kOverwrite : GradMode::kAccumulate;
  const auto ready = [this, &ctx](int begin, int end) { Ready(ctx, begin, end); };
  if (sharded_) {
    FinishAllBut(ctx, 0);
    num_started_ = 0;
    slice_mode_ = mode;
    return {.mode = GradMode::kOverwrite, .ready = ready};
  }
  if (overlap_ && index + 1 == count) return {.mode = mode, .ready = ready};
  return {.mode = mode, .ready = nullptr};
}

// The rank's slice of a bucket.
TensorView GradientReducer::Own(size_t bucket) const {
  const TensorView grads = model_.bucket_grads(bucket);
  const int64_t length = grads.dim(0) / slices_.size();
  return grads.Rows(slices_.rank() * length, length);
}

// Buckets and the ranges that backward announces have the same borders; a batch without rows
// announces everything at once.
void GradientReducer::Ready(kernels::Context& ctx, int begin, int end) {
  const auto& buckets = model_.layout().buckets;
  for (size_t b = buckets.size(); b-- > 0;) {
    if (buckets[b].first_param < begin || buckets[b].end_param > end) continue;
    Start(ctx, b);
    // The memory of a sharded bucket is the next but one's.
    if (sharded_) FinishAllBut(ctx, overlap_ ? 1 : 0);
  }
}

void GradientReducer::Start(kernels::Context& ctx, size_t bucket) {
  const TensorView own = Own(bucket);
  // One of the groups is this rank alone, whose collectives are done at once.
  dist::Pending scatter = slices_.ReduceScatter(ctx, model_.bucket_grads(bucket), own,
                                                dist::ReduceOp::kSum, "gradients");
  dist::Pending sum = replicas_.AllReduce(ctx, own, dist::ReduceOp::kSum, "gradients");
  under_way_.push_back({bucket, std::move(scatter), std::move(sum)});
  ++num_started_;
}

void GradientReducer::FinishAllBut(kernels::Context& ctx, size_t count) {
  const model::FlatLayout& layout = model_.layout();
  while (under_way_.size() > count) {
    Reduction reduction = std::move(under_way_.front());
    under_way_.pop_front();
    reduction.scatter.Wait();
    reduction.sum.Wait();
    if (!sharded_) continue;
    const TensorView own = Own(reduction.bucket);
    const TensorView slice =
        model_.grads().Rows(layout.buckets[reduction.bucket].begin / slices_.size(), own.dim(0));
    if (slice_mode_ == GradMode::kOverwrite) {
      kernels::Cast(ctx, own, slice);
    } else {
      kernels::Add(ctx, {.a = slice, .b = own, .y = slice});
    }
  }
}

void GradientReducer::Finish(kernels::Context& ctx) {
  const auto num_buckets = static_cast<int64_t>(model_.layout().buckets.size());
  CHECK(!sharded_ || num_started_ == num_buckets, "sharded gradients are reduced by MicroBatch()");
  for (int64_t b = num_buckets - num_started_; b-- > 0;) Start(ctx, static_cast<size_t>(b));
  FinishAllBut(ctx, 0);
  num_started_ = 0;
}

TensorView GradientReducer::Reduced(const model::Piece& piece) const {
  const int64_t place = sharded_ ? piece.in_slice : piece.place;
  return model_.grads().Rows(place, piece.end - piece.begin);
}

}  // namespace sepia::trainer
