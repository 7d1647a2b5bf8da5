// Where the rows of the residual stream are, among the ranks of a tensor group.
//
//   whole      every rank has all M rows; partial sums are added up by an all-reduce
//   sequence   each rank has a share of the rows; it gathers all of them before a product by
//   columns
//              and keeps its share of the sum after a product by rows (reduce-scatter)
//
// Sequence parallelism cuts the M = B T rows into chunks and every chunk into one slice a rank, so
// that a gathered chunk is contiguous and its products run while the next one travels. The rows are
// padded with zeros to a multiple of the ranks: padding travels, and is never read as a row.
// Source: Korthikanti et al. 2022 (Megatron's sequence parallelism); docs/design/007.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "dist/communicator.h"
#include "kernels/context.h"

namespace sepia::model {

struct RowChunk {
  size_t index;
  int64_t begin, rows;       // of the micro-batch
  int64_t own_begin, slice;  // of the rank's own rows, padding included
};

class ResidualRows;

// All rows of a matrix of which each rank has its own. Wait for a chunk before its use.
class GatheredRows {
 public:
  void Wait(const RowChunk& chunk) { pending_[chunk.index].Wait(); }
  void WaitForAll() {
    for (dist::Pending& pending : pending_) pending.Wait();
  }
  ConstTensorView rows() const { return rows_; }  // [M, C]

 private:
  friend class ResidualRows;
  ConstTensorView rows_;
  std::vector<dist::Pending> pending_;  // by chunk
};

// The sum over ranks of a matrix of partial sums.
class RowSum {
 public:
  TensorView partial() const { return partial_; }  // [padded rows, C], to be written
  // This rank's part of a chunk is complete.
  void Start(kernels::Context& ctx, const RowChunk& chunk);
  // The rank's own rows, after every chunk was started.
  TensorView Wait();

 private:
  friend class ResidualRows;
  const ResidualRows* stream_ = nullptr;
  TensorView partial_, own_;
  std::string label_;
  std::vector<dist::Pending> pending_;
};

class ResidualRows {
 public:
  // All `rows` on every rank.
  ResidualRows(dist::Communicator& tensor, int64_t rows);
  // Shares, in chunks of about `chunk_rows` rows, four at most.
  ResidualRows(dist::Communicator& tensor, int64_t rows, int64_t chunk_rows);

  std::span<const RowChunk> chunks() const { return chunks_; }
  int64_t rows() const { return rows_; }  // M
  int64_t padded_rows() const { return padded_; }
  int64_t own_rows() const { return own_rows_; }  // padding included

  // Collects `own` [own_rows, C] of all ranks in `memory` (>= [padded_rows, C], not used when
  // whole). `own` must not change before all chunks have arrived. Collective.
  GatheredRows Gather(kernels::Context& ctx, ConstTensorView own, TensorView memory,
                      std::string_view label) const;

  // The place for partial sums of all rows [padded_rows, C] that shall end in `own` [own_rows, C]:
  // when whole that is `own`, otherwise it is in `memory`.
  TensorView PlaceForPartial(TensorView own, TensorView memory) const;
  // Such a sum.
  RowSum Sum(TensorView partial, TensorView own, std::string_view label) const;

 private:
  friend class RowSum;
  dist::Communicator& tensor_;
  bool sequence_;
  int64_t rows_, padded_, own_rows_;
  std::vector<RowChunk> chunks_;
};

}  // namespace sepia::model
