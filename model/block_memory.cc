// Memory of a block: one list of tensors serves planning, allocation and narrowing.
#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/gelu.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/sep_attention.h"
#include "model/block.h"

namespace sepia::model {
namespace {

// fn(tensor, name, dtype, shape) for every saved tensor.
template <typename Fn>
void ForEachActivation(BlockActivations& a, const BlockShape& s, bool parallel_residual,
                       const Fn& fn) {
  const int64_t M = s.M();
  const Shape width{M, s.C};
  const Shape rows{M};
  const Shape inner{M, s.F};
  fn(a.ln1, "ln1", s.dtype, width);
  fn(a.mean1, "mean1", DType::kFloat32, rows);
  fn(a.rstd1, "rstd1", DType::kFloat32, rows);
  fn(a.qkv, "qkv", s.dtype, Shape{s.B, s.T, s.H, 3, s.D});
  fn(a.attention, "attention", s.dtype, Shape{s.B, s.T, s.H, s.D});
  fn(a.lse, "lse", DType::kFloat32, Shape{s.B, s.H, s.T});
  if (!parallel_residual) fn(a.middle, "middle", s.dtype, Shape{s.own_rows(), s.C});
  fn(a.ln2, "ln2", s.dtype, width);
  fn(a.mean2, "mean2", DType::kFloat32, rows);
  fn(a.rstd2, "rstd2", DType::kFloat32, rows);
  fn(a.up, "up", s.dtype, inner);
}

}  // namespace

BlockActivations AllocateBlockActivations(Arena& arena, const std::string& name,
                                          const BlockShape& shape, bool parallel_residual) {
  BlockActivations activations;
  ForEachActivation(activations, shape, parallel_residual,
                    [&](TensorView& tensor, const char* field, DType dtype, const Shape& dims) {
                      const bool norm = &tensor == &activations.ln1 || &tensor == &activations.ln2;
                      if (norm && shape.row_ranks > 1) return;
                      tensor = arena.Allocate(name + "." + field, dtype, dims);
                    });
  return activations;
}

BlockActivations Narrow(const BlockActivations& activations, const BlockShape& shape) {
  BlockActivations narrow = activations;
  ForEachActivation(narrow, shape, activations.middle.empty(),
                    [](TensorView& tensor, const char*, DType, const Shape& dims) {
                      tensor = Prefix(tensor, dims);
                    });
  return narrow;
}

BlockTemporaries AllocateBlockTemporaries(Arena& arena, const BlockShape& shape, bool gradients) {
  const int64_t M = shape.M();
  const Shape all{shape.padded_rows(), shape.C};
  const bool shared = shape.row_ranks > 1;
  BlockTemporaries t;
  t.partial = arena.Allocate("partial", shape.dtype, all);
  t.own = shared ? arena.Allocate("own", shape.dtype, {shape.own_rows(), shape.C}) : t.partial;
  if (shared) t.x = arena.Allocate("x", shape.dtype, all);
  if (shared) t.norm = arena.Allocate("norm", shape.dtype, {M, shape.C});
  const int64_t d_qkv = gradients ? 3 * shape.H * shape.D : 0;
  t.wide = arena.Allocate("wide", shape.dtype, {M, std::max(d_qkv, shape.F)});
  if (!gradients) return t;
  if (shared) t.dy = arena.Allocate("dy", shape.dtype, all);
  t.d_width = arena.Allocate("d_width", shape.dtype, {M, shape.C});
  return t;
}

TensorView Prefix(TensorView memory, const Shape& shape) {
  CHECK_LE(shape.num_elements(), memory.num_elements());
  return TensorView(memory.raw(), memory.dtype(), shape, memory.device());
}

int64_t BlockScratchBytes(const BlockShape& s, int num_threads, Device device,
                          kernels::FullAttention full_attention) {
  const int64_t M = s.M();
  const int64_t heads = s.H * s.D;
  const auto linear = [&](int64_t n, int64_t k) {
    return kernels::LinearScratchBytes(M, n, k, s.dtype, num_threads, device);
  };
  return std::max({linear(3 * heads, s.C), linear(s.C, heads), linear(s.F, s.C), linear(s.C, s.F),
                   kernels::LayerNormScratchBytes(M, s.C, device),
                   kernels::BiasGeluScratchBytes(M, s.F, device),
                   kernels::ColumnSumScratchBytes(M, s.C, device),
                   kernels::SepAttentionScratchBytes(
                       {s.B, s.T, s.H, s.D, s.dtype, num_threads, device, full_attention})});
}

}  // namespace sepia::model
