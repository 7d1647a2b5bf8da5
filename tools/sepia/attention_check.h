// A plain reference for `bench attention`: double arithmetic, one pair at a time, on samples of
// queries and keys, so that it stays cheap for any length.
#pragma once

#include "base/attention_index.h"
#include "base/tensor.h"

namespace sepia::tools {

// Tensors as in kernels/sep_attention.h, after one forward and one backward call.
struct AttentionTensors {
  ConstTensorView qkv;
  ConstTensorView out;
  ConstTensorView lse;
  ConstTensorView dout;
  ConstTensorView dqkv;
};

// Largest relative error (L2, per vector of D numbers) of out, dq, dk, dv at sampled places. Key
// gradients sum over all queries, with the probabilities that lse gives; lse itself is checked at
// the sampled queries.
double WorstAttentionError(const AttentionTensors& tensors, const AttentionIndex& index,
                           int64_t window);

// What WorstAttentionError may give: one rounding of each number, fp32 sums of up to thousands of
// terms, and with `bf16_products` (vdpbf16ps, tiles) a rounding of each probability and score
// gradient that enters a product.
double AttentionErrorLimit(DType dtype, bool bf16_products);

}  // namespace sepia::tools
