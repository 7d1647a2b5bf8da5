// Where key gradients go at the end of a part (kernels/cpu/attention_parts.h) or of a key's sight:
// to their packed row, to the sums of parts, or rounded to dqkv. For the files of this folder only.
#pragma once

#include "kernels/cpu/isa/attention_backward_arrays.h"

namespace sepia::kernels::cpu::SEPIA_ISA {

inline void AddRow(const float* from, int64_t size, float* to) {
  for (int64_t d = 0; d < size; d += kLanes) Store(to + d, Load(to + d) + Load(from + d));
}
inline void CopyRow(const float* from, int64_t size, float* to) {
  for (int64_t d = 0; d < size; d += kLanes) Store(to + d, Load(from + d));
}
// The same, and sums of the next part begin from zero.
inline void MoveRow(bool add, float* from, int64_t size, float* to) {
  for (int64_t d = 0; d < size; d += kLanes) {
    const Vec x = Load(from + d);
    Store(to + d, add ? Load(to + d) + x : x);
    Store(from + d, Zero());
  }
}

// The part that is being computed.
struct Part {
  int64_t begin, end;
  int64_t num_packed;

  // Row of key j among its packed keys, or -1.
  int64_t PackedRow(const AttentionHead& head, int64_t key) const {
    if (head.inverse == nullptr || head.inverse[key] >= num_packed) return -1;
    return head.inverse[key];
  }
  // Whether some of its queries see key j.
  bool Sees(const AttentionHead& head, int64_t key) const {
    return (begin - head.window < key && key < end) || PackedRow(head, key) >= 0;
  }
};

// Sums of a part for key j: to dqkv, where no later part sees the key, or to the sums of parts.
inline void StoreKeyGradients(const AttentionBackwardTask& task, const Part& part, int64_t key,
                              float scale, float* dk, float* dv) {
  const AttentionHead& head = task.head;
  const int64_t dim = head.padded_dim;
  const auto sum = [&](float* sums) { return sums + key * dim; };
  const bool is_first = !task.whole_head || key >= part.begin;  // else its own query's part was
  const Part all = {task.segment.begin, task.segment.end, task.segment.num_packed};
  const bool is_last =
      part.end == all.end || (all.PackedRow(head, key) < 0 && key + head.window <= part.end);
  if (task.whole_head && is_last) {
    if (!is_first) {
      AddRow(sum(task.sums.dk), dim, dk);
      AddRow(sum(task.sums.dv), dim, dv);
    }
    StoreRow(head, dk, scale, GradientRow(head, task.dqkv, key, 1));
    StoreRow(head, dv, 1.0f, GradientRow(head, task.dqkv, key, 2));
    return;
  }
  MoveRow(!is_first, dk, dim, sum(task.sums.dk));
  MoveRow(!is_first, dv, dim, sum(task.sums.dv));
}

// Sends a band chunk's gradients on: no later query of the part sees its keys in the band.
inline void FlushBandChunk(const AttentionBackwardTask& task, const Part& part, int64_t band_chunk,
                           float scale, const Arrays& arrays) {
  const AttentionHead& head = task.head;
  const int64_t dim = head.padded_dim;
  const int64_t first_key = band_chunk * kChunkKeys;
  const int64_t begin = Larger(first_key, part.begin - head.window + 1);
  const int64_t end = Smaller(first_key + kChunkKeys, part.end);
  const Chunk chunk = arrays.chunk(band_chunk % task.segment.ring_chunks);
  for (int64_t key = begin; key < end; ++key) {
    float* dk = chunk.key_gradients + (key - first_key) * dim;
    float* dv = chunk.value_gradients + (key - first_key) * dim;
    const int64_t packed = part.PackedRow(head, key);
    if (packed < 0) {
      StoreKeyGradients(task, part, key, scale, dk, dv);
      continue;
    }
    const Chunk target = arrays.chunk(task.segment.ring_chunks + packed / kChunkKeys);
    MoveRow(true, dk, dim, target.key_gradients + packed % kChunkKeys * dim);
    MoveRow(true, dv, dim, target.value_gradients + packed % kChunkKeys * dim);
  }
}

inline void FlushPackedChunk(const AttentionBackwardTask& task, const Part& part,
                             int64_t packed_chunk, float scale, const Arrays& arrays) {
  const KeyRange keys = PackedChunk(task.head, part.num_packed, packed_chunk);
  const Chunk chunk = arrays.chunk(task.segment.ring_chunks + packed_chunk);
  for (int64_t i = 0; i < keys.size; ++i) {
    StoreKeyGradients(task, part, keys[i], scale, chunk.key_gradients + i * task.head.padded_dim,
                      chunk.value_gradients + i * task.head.padded_dim);
  }
}

// At the end of a part: sends all gradients on, those of band chunks [oldest, end_chunk). What the
// next part adds to is zero then.
inline void FinishPart(const AttentionBackwardTask& task, const Part& part, int64_t oldest,
                       int64_t end_chunk, float scale, const Arrays& arrays) {
  for (int64_t c = oldest; c < end_chunk; ++c) FlushBandChunk(task, part, c, scale, arrays);
  for (int64_t c = 0; c * kChunkKeys < part.num_packed; ++c) {
    FlushPackedChunk(task, part, c, scale, arrays);
  }
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
