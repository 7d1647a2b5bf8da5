// What `bench attention` runs: tensors of one shape, and attention on them in one variant.
#pragma once

#include <string>

#include "base/arena.h"
#include "base/attention_index.h"
#include "base/buffer.h"
#include "kernels/context.h"
#include "kernels/cpu/cpu_features.h"

namespace sepia::tools {

struct AttentionShape {
  int64_t batch, seq, heads, head_dim;
};

// Inputs at random, rounded to the dtype; shared by the variants of that dtype, which run in turn.
struct AttentionBuffers {
  AttentionBuffers(const AttentionShape& shape, DType dtype);

  OwnedTensor qkv, dout;
  OwnedTensor out, dqkv, lse;
  // What forward and backward read and write at least.
  int64_t TouchedBytes() const;
};

// One way to run attention. Not to be moved: the context refers to the scratch memory.
class AttentionWorkload {
 public:
  struct Variant {
    kernels::cpu::Isa isa;
    int64_t window;
    int num_threads;
  };
  AttentionWorkload(const AttentionBuffers& buffers, const AttentionIndex& index,
                    const Variant& variant);

  void Forward();
  void Backward();

  // Runs both and compares with double arithmetic; throws when the kernel is wrong. Returns its
  // worst relative error.
  double Verify();

  // The code path that the variant's instruction set has for the dtype.
  const char* isa_name() const { return isa_name_; }
  // The best instruction set of that code path.
  kernels::cpu::Isa code_isa() const;
  // Of all batch rows, one head.
  int64_t VisiblePairs() const { return index_.VisiblePairs(variant_.window); }
  int64_t scratch_bytes() const { return scratch_.high_water_bytes(); }

 private:
  const AttentionBuffers& buffers_;
  const AttentionIndex& index_;
  const Variant variant_;
  const char* isa_name_;
  Arena scratch_;
  kernels::Context ctx_;
};

}  // namespace sepia::tools
