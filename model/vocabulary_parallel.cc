#include "model/vocabulary_parallel.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/device_memory.h"
#include "kernels/embedding.h"
#include "kernels/lm_head.h"

namespace sepia::model {

kernels::VocabularyPart VocabularyPartOf(dist::Mesh& mesh) {
  return {.part = mesh.tensor().rank(), .num_parts = mesh.tensor().size()};
}

void EmbedTokens(kernels::Context& ctx, dist::Mesh& mesh, const ResidualRows& rows,
                 ConstTensorView tokens, ConstTensorView table, TensorView memory, TensorView own) {
  const TensorView partial = rows.PlaceForPartial(own, memory);
  const Shape shape{tokens.dim(0), tokens.dim(1), table.dim(1)};
  kernels::EmbeddingForward(ctx, {.tokens = tokens,
                                  .table = table,
                                  .y = partial.Rows(0, rows.rows()).Reshaped(shape),
                                  .vocabulary = VocabularyPartOf(mesh)});
  // Exact in any dtype: all ranks but one add zero.
  RowSum sum = rows.Sum(partial, own, "embedding.forward");
  for (const RowChunk& chunk : rows.chunks()) sum.Start(ctx, chunk);
  sum.Wait();
}

std::function<void(ConstTensorView own, TensorView all)> GatherOverVocabulary(kernels::Context& ctx,
                                                                              dist::Mesh& mesh) {
  return [&ctx, &mesh](ConstTensorView own, TensorView all) {
    mesh.tensor().AllGather(ctx, own, all, "head.statistics").Wait();
  };
}

void WholeLogits(kernels::Context& ctx, dist::Mesh& mesh, ConstTensorView x,
                 const kernels::Weight& weight, TensorView logits) {
  const int64_t parts = mesh.tensor().size();
  if (parts == 1) {  // no second copy of what may be the largest tensor of all
    kernels::LmHeadLogits(ctx, {.x = x, .weight = weight, .logits = logits});
    return;
  }
  const int64_t rows = x.dim(0);
  const int64_t width = weight.canonical.dim(0);
  const OwnedTensor own(DType::kFloat32, {rows, width}, ctx.device);
  if (rows == 1) {  // the parts lie in order as they arrive
    const TensorView parts_of_row(logits.raw(), DType::kFloat32, {parts, rows, width},
                                  logits.device());
    kernels::LmHeadLogits(ctx, {.x = x, .weight = weight, .logits = own});
    mesh.tensor().AllGather(ctx, own, parts_of_row, "head.logits").Wait();
    return;
  }
  const OwnedTensor all(DType::kFloat32, {parts, rows, width}, ctx.device);
  kernels::LmHeadLogits(ctx, {.x = x, .weight = weight, .logits = own});
  mesh.tensor().AllGather(ctx, own, all, "head.logits").Wait();
  // [parts, rows, width] to [rows, parts, width].
  const HostView from(all);
  WriteFromHost(logits, [&](TensorView to) {
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t row = 0; row < rows; ++row) {
        std::copy_n(from->data<float>() + (part * rows + row) * width, width,
                    to.data<float>() + (row * parts + part) * width);
      }
    }
  });
}

}  // namespace sepia::model
