// Where finished gradients of keys go: to their packed row, to the partial sums of a segment, or
// rounded to dqkv.
#pragma once

#include "kernels/cpu/amx/backward_arrays.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

// fp32 numbers of a row of partial sums.
inline int64_t PartialFloats(const Head& head) { return 32 * Steps(head.head_dim); }

inline BFloat16* GradientRow(const Head& head, BFloat16* dqkv, int64_t row, int64_t part) {
  return dqkv + row * head.qkv_stride + part * head.head_dim;
}

// Row of key j among the packed keys of the segment, or -1.
inline int64_t PackedRow(const Head& head, const Segment& segment, int64_t key) {
  if (head.inverse == nullptr || head.inverse[key] >= segment.num_packed) return -1;
  return head.inverse[key];
}

// Whether a segment has gradients of key j.
inline bool SegmentReaches(const Head& head, const Segment& segment, int64_t key) {
  if (PackedRow(head, segment, key) >= 0) return true;
  return segment.begin - head.window < key && key < segment.end;
}

// Copies 16 floats every kTileFloats to consecutive ones.
inline void StoreUnrounded(const float* row, int64_t steps, float* to) {
  for (int64_t d = 0; d < 2 * steps; ++d) {
    _mm512_storeu_ps(to + 16 * d, _mm512_load_ps(row + d * kTileFloats));
  }
}

inline void StoreKeyGradient(const BackwardTask& task, int64_t key, const float* dk,
                             const float* dv) {
  const Head& head = task.head;
  if (task.partials.dk == nullptr) {
    StoreRounded(dk, ScoreScale(head), head.head_dim, GradientRow(head, task.dqkv, key, 1));
    StoreRounded(dv, 1.0f, head.head_dim, GradientRow(head, task.dqkv, key, 2));
    return;
  }
  StoreUnrounded(dk, Steps(head.head_dim), task.partials.dk + key * PartialFloats(head));
  StoreUnrounded(dv, Steps(head.head_dim), task.partials.dv + key * PartialFloats(head));
}

inline void AddGradientRow(const float* from, int64_t steps, float* to) {
  for (int64_t at = 0; at < 2 * steps * kTileFloats; at += kTileFloats) {
    _mm512_store_ps(to + at, _mm512_add_ps(_mm512_load_ps(to + at), _mm512_load_ps(from + at)));
  }
}

// Sends a band panel's gradients on: no later query of the segment sees its keys in the band.
inline void FlushBandPanel(const BackwardTask& task, const PanelStore& store, int64_t first_key) {
  const Head& head = task.head;
  const int64_t steps = Steps(head.head_dim);
  const KeyPanel panel(store[{false, first_key}], steps);
  const int64_t begin = Larger(first_key, task.segment.begin - head.window + 1);
  const int64_t end = Smaller(first_key + kPanelKeys, task.segment.end);
  for (int64_t key = begin; key < end; ++key) {
    const int64_t at = GradientOffset(key - first_key, steps);
    const int64_t packed = PackedRow(head, task.segment, key);
    if (packed < 0) {
      StoreKeyGradient(task, key, panel.dk() + at, panel.dv() + at);
      continue;
    }
    const KeyPanel target(store[{true, packed}], steps);
    const int64_t target_at = GradientOffset(packed % kPanelKeys, steps);
    AddGradientRow(panel.dk() + at, steps, target.dk() + target_at);
    AddGradientRow(panel.dv() + at, steps, target.dv() + target_at);
  }
}

inline void FlushPackedPanel(const BackwardTask& task, const PanelStore& store,
                             int64_t first_packed) {
  const int64_t steps = Steps(task.head.head_dim);
  const KeyPanel panel(store[{true, first_packed}], steps);
  const int64_t end = Smaller(first_packed + kPanelKeys, task.segment.num_packed);
  for (int64_t p = first_packed; p < end; ++p) {
    const int64_t at = GradientOffset(p - first_packed, steps);
    StoreKeyGradient(task, task.head.positions[p], panel.dk() + at, panel.dv() + at);
  }
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
