// A batch's tokens, targets, loss mask and indexes where the model's ops read them: on the host the
// batch's own memory, on a device a copy.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/batch.h"
#include "base/tensor.h"
#include "kernels/batch_upload.h"

namespace sepia::model {

class ModelInputs {
 public:
  ModelInputs(Device device, int64_t vocab_size, const kernels::BatchUpload::Limits& limits);

  // On a device, starts the copy of the batch that will be loaded next, which goes on beside what
  // is computed. CHECK-fails for ids outside the vocabulary: on a device nobody looks at them
  // again.
  void Prefetch(const Batch& batch);
  // Makes `batch` the one to compute on; prefetches it where nobody did. No other may have been
  // prefetched.
  void Load(const Batch& batch);

  // Of the batch that was loaded last.
  ConstTensorView tokens(const Batch& batch) const;     // [B, T]
  ConstTensorView targets(const Batch& batch) const;    // [B T]
  ConstTensorView loss_mask(const Batch& batch) const;  // [B T], or empty
  const AttentionIndex& index(const Batch& batch, size_t i) const;
  // kernels::BatchUpload::geometry(); empty on the host.
  std::vector<int64_t> geometry() const;

 private:
  bool on_host() const { return upload_ == nullptr; }

  int64_t vocab_size_;
  std::unique_ptr<kernels::BatchUpload> upload_;  // null on the host
  const Batch* prefetched_ = nullptr;             // not loaded yet
};

}  // namespace sepia::model
