#include "kernels/cuda/batch_stages.h"

#include <utility>

#include "base/check.h"

namespace sepia::kernels::cuda {

BatchStages::BatchStages(Stream& compute, size_t max_bytes)
    : compute_(compute), stage_(max_bytes), current_(max_bytes) {}

// Rather more memory than a wait.
BatchStages::Pinned& BatchStages::FreePinned() {
  for (const auto& pinned : pinned_) {
    if (pinned->copied.IsDone()) return *pinned;
  }
  pinned_.push_back(std::make_unique<Pinned>(stage_.size()));
  return *pinned_.back();
}

void BatchStages::Stage(size_t num_bytes, const std::function<void(std::byte*)>& fill) {
  CHECK(staged_ == nullptr, "a batch is staged already");
  CHECK_LE(num_bytes, stage_.size());
  Pinned& pinned = FreePinned();
  fill(static_cast<std::byte*>(pinned.memory.data()));
  taken_.MakeWait(copies_);
  CopyToDevice(copies_, stage_.data<void>(), pinned.memory.data(), num_bytes);
  pinned.copied.Record(copies_);
  staged_ = &pinned;
  staged_bytes_ = num_bytes;
}

void BatchStages::Load() {
  CHECK(staged_ != nullptr, "no batch is staged");
  std::exchange(staged_, nullptr)->copied.MakeWait(compute_);
  CopyOnDevice(compute_, current_.data<void>(), stage_.data<void>(), staged_bytes_);
  taken_.Record(compute_);
}

}  // namespace sepia::kernels::cuda
