// Where gradients of keys go at the end of a part (kernels/cpu/attention_parts.h) or of a key's
// sight: to their packed row, to the sums of parts, or rounded to dqkv.
#pragma once

#include "kernels/cpu/amx/backward_arrays.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

// fp32 numbers of a row of partial sums.
inline int64_t PartialFloats(const Head& head) { return 32 * Steps(head.head_dim); }

inline BFloat16* GradientRow(const Head& head, BFloat16* dqkv, int64_t row, int64_t part) {
  return dqkv + row * head.qkv_stride + part * head.head_dim;
}

// The part that is being computed.
struct Part {
  int64_t begin, end;
  int64_t num_packed;

  // Row of key j among its packed keys, or -1.
  int64_t PackedRow(const Head& head, int64_t key) const {
    if (head.inverse == nullptr || head.inverse[key] >= num_packed) return -1;
    return head.inverse[key];
  }
  // Whether some of its queries see key j.
  bool Sees(const Head& head, int64_t key) const {
    return (begin - head.window < key && key < end) || PackedRow(head, key) >= 0;
  }
};

// Moves a row of 16 floats every kTileFloats to such a row, adding; sums of the next part begin
// from zero.
inline void MoveGradientRow(float* from, int64_t steps, float* to) {
  for (int64_t at = 0; at < 2 * steps * kTileFloats; at += kTileFloats) {
    _mm512_store_ps(to + at, _mm512_add_ps(_mm512_load_ps(to + at), _mm512_load_ps(from + at)));
    _mm512_store_ps(from + at, _mm512_setzero_ps());
  }
}
// The same to consecutive floats, which are added to or overwritten.
inline void MoveToSum(bool add, float* from, int64_t steps, float* sum) {
  for (int64_t d = 0; d < 2 * steps; ++d, from += kTileFloats, sum += 16) {
    const __m512 x = _mm512_load_ps(from);
    _mm512_storeu_ps(sum, add ? _mm512_add_ps(_mm512_loadu_ps(sum), x) : x);
    _mm512_store_ps(from, _mm512_setzero_ps());
  }
}
// Adds consecutive floats to a row.
inline void AddSum(const float* sum, int64_t steps, float* to) {
  for (int64_t d = 0; d < 2 * steps; ++d, to += kTileFloats, sum += 16) {
    _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), _mm512_loadu_ps(sum)));
  }
}

// Sums of a part for key j: to dqkv, where no later part sees the key, or to the sums of parts.
inline void StoreKeyGradient(const BackwardTask& task, const Part& part, int64_t key, float* dk,
                             float* dv) {
  const Head& head = task.head;
  const int64_t steps = Steps(head.head_dim);
  const auto sum = [&](float* sums) { return sums + key * PartialFloats(head); };
  const bool is_first = !task.whole_head || key >= part.begin;  // else its own query's part was
  const Part all = {task.segment.begin, task.segment.end, task.segment.num_packed};
  const bool is_last =
      part.end == all.end || (all.PackedRow(head, key) < 0 && key + head.window <= part.end);
  if (task.whole_head && is_last) {
    if (!is_first) {
      AddSum(sum(task.sums.dk), steps, dk);
      AddSum(sum(task.sums.dv), steps, dv);
    }
    StoreRounded(head, dk, ScoreScale(head), GradientRow(head, task.dqkv, key, 1));
    StoreRounded(head, dv, 1.0f, GradientRow(head, task.dqkv, key, 2));
    return;
  }
  MoveToSum(!is_first, dk, steps, sum(task.sums.dk));
  MoveToSum(!is_first, dv, steps, sum(task.sums.dv));
}

// Sends a band panel's gradients on: no later query of the part sees its keys in the band.
inline void FlushBandPanel(const BackwardTask& task, const Part& part, const PanelStore& store,
                           int64_t first_key) {
  const Head& head = task.head;
  const int64_t steps = Steps(head.head_dim);
  const KeyPanel panel(store[{false, first_key}], steps);
  const int64_t begin = Larger(first_key, part.begin - head.window + 1);
  const int64_t end = Smaller(first_key + kPanelKeys, part.end);
  for (int64_t key = begin; key < end; ++key) {
    const int64_t at = GradientOffset(key - first_key, steps);
    const int64_t packed = part.PackedRow(head, key);
    if (packed < 0) {
      StoreKeyGradient(task, part, key, panel.dk() + at, panel.dv() + at);
      continue;
    }
    const KeyPanel target(store[{true, packed}], steps);
    const int64_t target_at = GradientOffset(packed % kPanelKeys, steps);
    MoveGradientRow(panel.dk() + at, steps, target.dk() + target_at);
    MoveGradientRow(panel.dv() + at, steps, target.dv() + target_at);
  }
}

inline void FlushPackedPanel(const BackwardTask& task, const Part& part, const PanelStore& store,
                             int64_t first_packed) {
  const int64_t steps = Steps(task.head.head_dim);
  const KeyPanel panel(store[{true, first_packed}], steps);
  const int64_t end = Smaller(first_packed + kPanelKeys, part.num_packed);
  for (int64_t p = first_packed; p < end; ++p) {
    const int64_t at = GradientOffset(p - first_packed, steps);
    StoreKeyGradient(task, part, task.head.positions[p], panel.dk() + at, panel.dv() + at);
  }
}

// At the end of a part: sends all gradients on, those of band panels [oldest_key, next_key). What
// the next part adds to is zero then.
inline void FinishPart(const BackwardTask& task, const Part& part, const PanelStore& store,
                       int64_t oldest_key, int64_t next_key) {
  for (int64_t key = oldest_key; key < next_key; key += kPanelKeys) {
    FlushBandPanel(task, part, store, key);
  }
  for (int64_t key = 0; key < part.num_packed; key += kPanelKeys) {
    FlushPackedPanel(task, part, store, key);
  }
}

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
