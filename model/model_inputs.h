// A batch's tokens, targets and loss mask where the model's ops read them: on the host the batch's
// own memory, on a device a copy.
#pragma once

#include <cstdint>

#include "base/batch.h"
#include "base/buffer.h"
#include "base/tensor.h"

namespace sepia::model {

class ModelInputs {
 public:
  // For batches of up to `max_tokens`.
  ModelInputs(Device device, int64_t max_tokens, int64_t vocab_size);

  // Copies, where that is needed, what the batch has. CHECK-fails for ids outside the vocabulary:
  // on a device nobody looks at them again.
  void Load(const Batch& batch);

  // Of the batch that was loaded last.
  ConstTensorView tokens(const Batch& batch) const;     // [B, T]
  ConstTensorView targets(const Batch& batch) const;    // [B T]
  ConstTensorView loss_mask(const Batch& batch) const;  // [B T], or empty

 private:
  bool on_host() const { return device_ == Device::kCpu; }

  Device device_;
  int64_t vocab_size_;
  OwnedTensor tokens_, targets_, loss_mask_;  // empty on the host
};

}  // namespace sepia::model
