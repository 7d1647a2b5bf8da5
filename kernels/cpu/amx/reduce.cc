// Adds the key gradients of the parts of a head, in order.
#include "kernels/cpu/amx/key_gradients.h"
#include "kernels/cpu/amx/segments.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {
namespace {

// Chunk `step` of the gradient of a key, rounded; `sums` is dk or dv of KeySums.
void ReduceChunk(const ReduceTask& task, int64_t key, int64_t step, float* KeySums::*sums,
                 float factor, BFloat16* to) {
  const Head& head = task.head;
  const int64_t at = key * PartialFloats(head) + 32 * step;
  __m512 low = _mm512_setzero_ps();
  __m512 high = _mm512_setzero_ps();
  bool is_first = true;
  Part part = {0, 0, 0};
  for (int64_t p = 0; p < task.num_parts; ++p) {
    part = {part.end, task.parts[p].end, task.parts[p].num_packed};
    if (!part.Sees(head, key)) continue;
    const float* from = task.sums[p].*sums + at;
    const __m512 from_low = _mm512_loadu_ps(from);
    const __m512 from_high = _mm512_loadu_ps(from + 16);
    low = is_first ? from_low : _mm512_add_ps(low, from_low);
    high = is_first ? from_high : _mm512_add_ps(high, from_high);
    is_first = false;
  }
  const __m512 scale = _mm512_set1_ps(factor);
  const __m512i rounded = RoundPair(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale));
  StoreChunk(head, to, step, rounded);
}

}  // namespace

void ReduceKeyGradients(const ReduceTask& task) {
  const Head& head = task.head;
  const float scale = ScoreScale(head);
  for (int64_t key = task.key_begin; key < task.key_end; ++key) {
    for (int64_t step = 0; step < Steps(head.head_dim); ++step) {
      ReduceChunk(task, key, step, &KeySums::dk, scale, GradientRow(head, task.dqkv, key, 1));
      ReduceChunk(task, key, step, &KeySums::dv, 1.0f, GradientRow(head, task.dqkv, key, 2));
    }
  }
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
