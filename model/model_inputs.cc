#include "model/model_inputs.h"

#include "base/device_memory.h"

namespace sepia::model {
namespace {

void Upload(const ConstTensorView& from, const OwnedTensor& to) {
  if (from.empty()) return;
  CopyTensor(from, TensorView(to.view().raw(), from.dtype(), from.shape(), to.view().device()));
}

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

ModelInputs::ModelInputs(Device device, int64_t max_tokens, int64_t vocab_size)
    : device_(device), vocab_size_(vocab_size) {
  if (on_host()) return;
  tokens_ = OwnedTensor(DType::kInt32, {max_tokens}, device);
  targets_ = OwnedTensor(DType::kInt32, {max_tokens}, device);
  loss_mask_ = OwnedTensor(DType::kUInt8, {max_tokens}, device);
}

void ModelInputs::Load(const Batch& batch) {
  if (on_host()) return;
  CheckIds(batch.tokens, vocab_size_);
  CheckIds(batch.targets, vocab_size_);
  Upload(batch.tokens_view(), tokens_);
  if (!batch.targets.empty()) Upload(batch.targets_view(), targets_);
  Upload(batch.loss_mask_view(), loss_mask_);
}

ConstTensorView ModelInputs::tokens(const Batch& batch) const {
  if (on_host()) return batch.tokens_view();
  return ConstTensorView(tokens_.view().raw(), DType::kInt32, batch.shape(), device_);
}

ConstTensorView ModelInputs::targets(const Batch& batch) const {
  if (on_host()) return Flat(batch.targets_view());
  return ConstTensorView(targets_.view().Rows(0, batch.shape().num_elements()));
}

ConstTensorView ModelInputs::loss_mask(const Batch& batch) const {
  if (on_host() || batch.loss_mask.empty()) return Flat(batch.loss_mask_view());
  return ConstTensorView(loss_mask_.view().Rows(0, batch.shape().num_elements()));
}

}  // namespace sepia::model
