#include "kernels/cuda/dense_ops.cuh"
#include "kernels/cuda/model_ops.h"

namespace sepia::kernels::cuda {
namespace {

// rows: of [B, T, H, (q, k)]; columns: pairs. (a, b) -> (a cos - b sin, b cos + a sin).
template <typename Format>
struct RotateOp {
  using T = Storage<Format>;
  int64_t rows, columns;
  RotaryParams p;

  SEPIA_DEVICE void Chunk(int64_t row, int64_t column, int count) const {
    const int64_t head = row / 2, position = head / p.num_heads % p.seq_length;
    T* from = static_cast<T*>(p.qkv) + (head * 3 + row % 2) * p.head_dim + column;
    float a[kChunk], b[kChunk], cos[kChunk], sin[kChunk], x[kChunk], y[kChunk];
    LoadChunk<Format>(a, from, count);
    LoadChunk<Format>(b, from + p.half, count);
    LoadChunk<Fp32>(cos, p.cos + position * p.half + column, count);
    LoadChunk<Fp32>(sin, p.sin + position * p.half + column, count);
    for (int i = 0; i < kChunk; ++i) {
      const float s = p.backward ? -sin[i] : sin[i];
      x[i] = a[i] * cos[i] - b[i] * s;
      y[i] = b[i] * cos[i] + a[i] * s;
    }
    StoreChunk<Format>(from, x, count);
    StoreChunk<Format>(from + p.half, y, count);
  }
};

}  // namespace

void Rotate(Stream& stream, const RotaryParams& p) {
  DispatchFormat(p.dtype, [&](auto format) {
    LaunchChunks(stream, p.backward ? "RotaryBackward" : "RotaryForward",
                 RotateOp<decltype(format)>{2 * p.rows * p.num_heads, p.half, p});
  });
}

}  // namespace sepia::kernels::cuda
