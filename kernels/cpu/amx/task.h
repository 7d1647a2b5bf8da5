// Sep-Attention of one head and one range of queries in bf16: plain pointers, no checks, no
// threads. The code behind it is compiled twice: with the processor's tile unit and with a tile
// unit in plain C++, for tests where there is none.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/attention_parts.h"

namespace sepia::kernels::cpu::amx {

inline constexpr int64_t kPanelKeys = 32;    // keys that are packed together
inline constexpr int64_t kTileQueries = 32;  // queries that are swept together

// One head of one sequence. Strides count elements.
struct Head {
  int64_t seq_length;   // T
  int64_t head_dim;     // D
  int64_t window;       // 1 ... T
  const BFloat16* qkv;  // row 0: q, k, v of D elements each
  int64_t qkv_stride;
  bool stream;  // outputs go past the caches: whole lines of tensors too large to stay there
  // Packed keys (base/attention_index.h), or null.
  const int32_t* positions;
  const int32_t* count;
  const int32_t* inverse;
};

// Queries [begin, end) of a head. `begin` is a multiple of kTileQueries.
struct Segment {
  int64_t begin, end;
  int64_t num_packed;    // packed keys that some query of the segment sees
  std::byte* workspace;  // 64-byte aligned; its content does not matter
};

struct ForwardTask {
  Head head;
  Segment segment;
  BFloat16* out;  // row 0
  int64_t out_stride;
  float* lse;  // [T], natural log
};

// Sums of key gradients, fp32 [T, PartialFloats] each. Only keys in reach are written.
struct KeySums {
  float* dk;
  float* dv;
};

struct BackwardTask {
  Head head;
  Segment segment;
  const BFloat16* out;
  const BFloat16* dout;
  int64_t out_stride;
  const float* lse;
  BFloat16* dqkv;  // row 0; rows as in qkv
  const QueryPart* parts;
  int64_t num_parts;
  // Whether the parts are all of the head's. If so, key gradients go to dqkv, and `sums` are used
  // where there are several parts. If not, there is one part, and its key gradients go to `sums`.
  bool whole_head;
  KeySums sums;
};

// Adds the key gradients of all parts of a head, in order, for keys [key_begin, key_end).
struct ReduceTask {
  Head head;
  const QueryPart* parts;
  const KeySums* sums;  // of each part
  int64_t num_parts;
  int64_t key_begin, key_end;
  BFloat16* dqkv;
};

struct TileCode {
  void (*forward)(const ForwardTask& task);
  void (*backward)(const BackwardTask& task);
  void (*reduce)(const ReduceTask& task);
  // Workspace of a task of a head, whatever its window and packed keys.
  int64_t (*forward_bytes)(int64_t seq_length, int64_t head_dim);
  int64_t (*backward_bytes)(int64_t seq_length, int64_t head_dim);
};

namespace hardware {
extern const TileCode kTileCode;
}
namespace emulated {
extern const TileCode kTileCode;
}

}  // namespace sepia::kernels::cpu::amx
