#include "model/residual_rows.h"

#include <algorithm>

#include "base/check.h"
#include "base/device_memory.h"
#include "base/integer.h"

namespace sepia::model {
namespace {

// More chunks hide no more: what stays visible is one of them.
constexpr int64_t kMostChunks = 4;

}  // namespace

ResidualRows::ResidualRows(dist::Communicator& tensor, int64_t rows)
    : tensor_(tensor),
      sequence_(false),
      rows_(rows),
      padded_(rows),
      own_rows_(rows),
      chunks_{{.index = 0, .begin = 0, .rows = rows, .own_begin = 0, .slice = rows}} {}

ResidualRows::ResidualRows(dist::Communicator& tensor, int64_t rows, int64_t chunk_rows)
    : tensor_(tensor),
      sequence_(true),
      rows_(rows),
      padded_(RoundUp(rows, tensor.size())),
      own_rows_(padded_ / tensor.size()) {
  const int64_t num_chunks = std::clamp<int64_t>(padded_ / chunk_rows, 1, kMostChunks);
  const int64_t slice = CeilDiv(own_rows_, num_chunks);
  for (int64_t own = 0; own < own_rows_; own += slice) {
    const int64_t begin = own * tensor.size();
    const int64_t own_slice = std::min(slice, own_rows_ - own);
    chunks_.push_back({.index = chunks_.size(),
                       .begin = begin,
                       .rows = std::min(own_slice * tensor.size(), rows - begin),
                       .own_begin = own,
                       .slice = own_slice});
  }
}

GatheredRows ResidualRows::Gather(kernels::Context& ctx, ConstTensorView own, TensorView memory,
                                  std::string_view label) const {
  GatheredRows gathered;
  gathered.pending_.resize(chunks_.size());
  if (!sequence_) {
    gathered.rows_ = own;
    return gathered;
  }
  const TensorView all(memory.raw(), memory.dtype(), {padded_, own.dim(1)}, memory.device());
  CHECK_LE(all.num_elements(), memory.num_elements());
  for (const RowChunk& chunk : chunks_) {
    gathered.pending_[chunk.index] =
        tensor_.AllGather(ctx, ConstTensorView(own.Rows(chunk.own_begin, chunk.slice)),
                          all.Rows(chunk.begin, chunk.slice * tensor_.size()), label);
  }
  gathered.rows_ = ConstTensorView(all.Rows(0, rows_));
  return gathered;
}

TensorView ResidualRows::PlaceForPartial(TensorView own, TensorView memory) const {
  if (!sequence_) return own;
  CHECK_LE(padded_ * own.dim(1), memory.num_elements());
  return TensorView(memory.raw(), memory.dtype(), {padded_, own.dim(1)}, memory.device());
}

RowSum ResidualRows::Sum(TensorView partial, TensorView own, std::string_view label) const {
  CHECK(partial.dim(0) == padded_ && own.dim(0) == own_rows_);
  RowSum sum;
  sum.stream_ = this;
  sum.partial_ = partial;
  sum.own_ = own;
  sum.label_ = label;
  return sum;
}

void RowSum::Start(kernels::Context& ctx, const RowChunk& chunk) {
  dist::Communicator& tensor = stream_->tensor_;
  if (!stream_->sequence_) {
    pending_.push_back(tensor.AllReduce(ctx, partial_, dist::ReduceOp::kSum, label_));
    return;
  }
  const int64_t all = chunk.slice * tensor.size();
  FillBytes(partial_.Rows(chunk.begin + chunk.rows, all - chunk.rows), 0);
  pending_.push_back(tensor.ReduceScatter(ctx, partial_.Rows(chunk.begin, all),
                                          own_.Rows(chunk.own_begin, chunk.slice),
                                          dist::ReduceOp::kSum, label_));
}

TensorView RowSum::Wait() {
  CHECK_EQ(pending_.size(), stream_->chunks().size());
  for (dist::Pending& pending : pending_) pending.Wait();
  return own_;
}

}  // namespace sepia::model
