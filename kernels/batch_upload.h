// A batch on its way to a device: tokens, targets, loss mask and packed keys.
//
//   upload.Stage(next);       // while the device computes on another one
//   upload.Load();            // from here on tokens(), ... are those of `next`
//
// Stage packs the batch into pinned memory and starts one copy, on a stream of its own, into memory
// beside the one that kernels read; Load moves it there, behind what was enqueued before. Neither
// waits for the device, once as much pinned memory is there as the caller stages ahead of it.
// What is loaded lies at addresses that depend on the batch's shape and geometry() alone, so that a
// graph of one batch serves another.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/attention_index.h"
#include "base/batch.h"
#include "base/tensor.h"

namespace sepia::kernels {

// Not thread-safe; one per model, on the cuda device.
class BatchUpload {
 public:
  struct Limits {
    int64_t batch_size, seq_length;  // at most
    int64_t num_indexes;
    // Rows of packed keys are a multiple of 1/16 of the sequence apart, so that few geometries()
    // occur. Kernels read how many there are from device memory: no bit of a result changes.
    bool round_packed = false;
  };
  explicit BatchUpload(const Limits& limits);
  ~BatchUpload();

  // Tokens and targets must be in the vocabulary: nobody looks at them again. One batch may be
  // staged at a time; `batch` may go when the call returns.
  void Stage(const Batch& batch);
  bool is_staged() const;
  void Load();

  // Of the batch that was loaded last.
  ConstTensorView tokens() const;     // [B, T]
  ConstTensorView targets() const;    // [B T], undefined if the batch has none
  ConstTensorView loss_mask() const;  // [B T], or empty
  // Copies of the batch's indexes with their place on the device.
  const AttentionIndex& index(size_t i) const;
  // What launches depend on beside the batch's shape: packed keys a row, of each index.
  const std::vector<int64_t>& geometry() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sepia::kernels
