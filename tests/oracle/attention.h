// Sep-Attention in double, straight from the rule "query i sees key j iff j <= i and (j is
// far-visible or i - j < window)", one pair after the other; no AttentionIndex, no packing.
#pragma once

#include <cstdint>
#include <vector>

#include "base/attention_index.h"

namespace sepia::testing {

struct AttentionProblem {
  int64_t batch_size, seq_length, num_heads, head_dim;
  AttentionIndexSpec spec;  // kFull: every j <= i, whatever the window
  int64_t window;
  std::vector<int32_t> tokens;  // [B, T]
  std::vector<double> qkv;      // [B, T, H, 3, D]

  bool Sees(int64_t row, int64_t i, int64_t j) const;
  int64_t VisiblePairs() const;
};

// Values, and for each the size of what was summed to make it: the sum of the terms' magnitudes,
// times 1 + the largest sum of |q k| and |lse| in the exponents behind it. Rounding errors of an
// fp32 computation are a small multiple of 2^-24 of that. `terms` is the sum of |p v|, |p dout|,
// |dS q| or |dS k| alone: what rounding every p or dS changes a value by, relatively.
struct WithMagnitude {
  std::vector<double> value;
  std::vector<double> magnitude;
  std::vector<double> terms;
};

struct AttentionForwardResult {
  WithMagnitude out;  // [B, T, H, D]
  WithMagnitude lse;  // [B, H, T]
};
AttentionForwardResult AttentionForward(const AttentionProblem& problem);

// dqkv [B, T, H, 3, D] for the output gradient dout; D_i = sum(dout_i * out_i) uses `out` as given.
WithMagnitude AttentionBackward(const AttentionProblem& problem, const std::vector<double>& out,
                                const std::vector<double>& dout);

}  // namespace sepia::testing
