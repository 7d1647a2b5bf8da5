#include "model/gather.h"

#include <cstring>

#include "base/device_memory.h"

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
    CopyTensor(local, whole);
    return whole;
  }
  const HostView part(local);
  if (spec.placement != Placement::kRow) {
    mesh.tensor().AllGather(ctx, *part, whole, "whole parameter").Wait();
    return whole;
  }
  const OwnedTensor parts(local.dtype(), spec.shape);
  mesh.tensor().AllGather(ctx, *part, parts, "whole parameter").Wait();
  PutColumnsSideBySide(static_cast<const std::byte*>(parts.view().raw()), mesh.tensor().size(),
                       local.dim(0), local.dim(1) * DTypeSize(local.dtype()),
                       static_cast<std::byte*>(whole.view().raw()));
  return whole;
}

void TensorRankSums::Add(kernels::Context& ctx, dist::Mesh& mesh,
                         std::span<const TensorView> parts) {
  if (mesh.tensor().size() == 1) return;  // complete already; no copies in every step
  // Many small vectors: one message.
  int64_t count = 0;
  for (const TensorView& part : parts) count += part.num_elements();
  if (message_.view().empty() || message_.view().dim(0) < count) {
    message_ = OwnedTensor(DType::kFloat32, {count}, ctx.device);
  }
  const TensorView message = message_.view().Rows(0, count);
  const auto for_each = [&](const auto& fn) {
    int64_t begin = 0;
    for (const TensorView& part : parts) {
      fn(part, TensorView(message.Rows(begin, part.num_elements())));
      begin += part.num_elements();
    }
  };
  for_each([](TensorView part, TensorView place) { CopyTensor(part, place); });
  mesh.tensor().AllReduce(ctx, message, dist::ReduceOp::kSum, "partial gradients").Wait();
  for_each([](TensorView part, TensorView place) { CopyTensor(place, part); });
}

}  // namespace sepia::model
