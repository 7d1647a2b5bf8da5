#include "model/gather.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace sepia::model {
namespace {

// [ranks, rows, row] to [rows, ranks, row], bytes.
void PutColumnsSideBySide(const std::byte* from, int64_t ranks, int64_t rows, int64_t row_bytes,
                          std::byte* to) {
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(to + (row * ranks + rank) * row_bytes, from + (rank * rows + row) * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
  }
}

}  // namespace

OwnedTensor GatherWhole(kernels::Context& ctx, dist::Mesh& mesh, const ParamSpec& spec,
                        ConstTensorView local) {
  OwnedTensor whole(local.dtype(), spec.shape);
  if (spec.placement == Placement::kReplicated) {
    std::memcpy(whole.view().raw(), local.raw(), static_cast<size_t>(local.num_bytes()));
    return whole;
  }
  if (spec.placement != Placement::kRow) {
    mesh.tensor().AllGather(ctx, local, whole, "whole parameter").Wait();
    return whole;
  }
  const OwnedTensor parts(local.dtype(), spec.shape);
  mesh.tensor().AllGather(ctx, local, parts, "whole parameter").Wait();
  PutColumnsSideBySide(static_cast<const std::byte*>(parts.view().raw()), mesh.tensor().size(),
                       local.dim(0), local.dim(1) * DTypeSize(local.dtype()),
                       static_cast<std::byte*>(whole.view().raw()));
  return whole;
}

void AddOverTensorRanks(kernels::Context& ctx, dist::Mesh& mesh,
                        std::span<const TensorView> parts) {
  if (mesh.tensor().size() == 1) return;  // complete already; no copies in every step
  std::vector<float> values;
  for (const TensorView& part : parts) {
    const std::span<const float> from = part.span<float>();
    values.insert(values.end(), from.begin(), from.end());
  }
  const auto count = static_cast<int64_t>(values.size());
  mesh.tensor()
      .AllReduce(ctx, TensorView::Of(std::span(values), {count}), dist::ReduceOp::kSum,
                 "partial gradients")
      .Wait();
  auto from = values.begin();
  for (const TensorView& part : parts) {
    std::copy_n(from, part.num_elements(), part.data<float>());
    from += static_cast<ptrdiff_t>(part.num_elements());
  }
}

}  // namespace sepia::model
