#include "model/model_inputs.h"

#include "base/check.h"

namespace sepia::model {
namespace {

void CheckIds(const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (const int32_t id : ids) {
    CHECK(id >= 0 && id < vocab_size, "token {} of a vocabulary of {}", id, vocab_size);
  }
}

// [B, T] as [B T]; an absent view stays absent.
ConstTensorView Flat(const ConstTensorView& view) {
  return view.empty() ? view : ConstTensorView(view.Reshaped({view.num_elements()}));
}

}  // namespace

ModelInputs::ModelInputs(Device device, int64_t vocab_size,
                         const kernels::BatchUpload::Limits& limits)
    : vocab_size_(vocab_size) {
  if (device != Device::kCpu) upload_ = std::make_unique<kernels::BatchUpload>(limits);
}

void ModelInputs::Prefetch(const Batch& batch) {
  if (on_host()) return;
  CheckIds(batch.tokens, vocab_size_);
  CheckIds(batch.targets, vocab_size_);
  upload_->Stage(batch);
  prefetched_ = &batch;
}

void ModelInputs::Load(const Batch& batch) {
  if (on_host()) return;
  if (prefetched_ == nullptr) Prefetch(batch);
  CHECK(prefetched_ == &batch, "a batch that is not the one prefetched");
  prefetched_ = nullptr;
  upload_->Load();
}

ConstTensorView ModelInputs::tokens(const Batch& batch) const {
  return on_host() ? batch.tokens_view() : upload_->tokens();
}

ConstTensorView ModelInputs::targets(const Batch& batch) const {
  return on_host() ? Flat(batch.targets_view()) : upload_->targets();
}

ConstTensorView ModelInputs::loss_mask(const Batch& batch) const {
  return on_host() ? Flat(batch.loss_mask_view()) : upload_->loss_mask();
}

const AttentionIndex& ModelInputs::index(const Batch& batch, size_t i) const {
  return on_host() ? *batch.indexes[i] : upload_->index(i);
}

std::vector<int64_t> ModelInputs::geometry() const {
  return on_host() ? std::vector<int64_t>() : upload_->geometry();
}

}  // namespace sepia::model
