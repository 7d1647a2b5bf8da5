// How much arithmetic a model does: for MFU, estimates and the paper's percentages. One
// multiply-add is two FLOPs. Recomputation is not counted (MFU, not HFU).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/attention_index.h"
#include "model/model_config.h"

namespace sepia::trainer {

// Sum over layers of the visible (query, key) pairs of one head.
struct AttentionWork {
  double visited_pairs = 0;
  double causal_pairs = 0;  // L B T (T + 1) / 2: the dense triangle

  // The paper's Attn %, as a share.
  double kept_share() const { return causal_pairs > 0 ? visited_pairs / causal_pairs : 0; }
  AttentionWork& operator+=(const AttentionWork& other);
};

// Exact, for the indexes of one batch (Batch::indexes) of `batch_size` rows of `seq_length`.
AttentionWork CountAttentionWork(const model::AttentionPlan& plan,
                                 std::span<const std::shared_ptr<const AttentionIndex>> indexes,
                                 int64_t batch_size, int64_t seq_length);

// Share of separators where no text can be read: English in the Pythia tokenizer, about what
// SepLLM's published Attn % imply.
constexpr double kUsualSeparatorDensity = 0.12;

// Expected, for one row of `seq_length` in which every position is a separator with probability
// `separator_density`, independently.
AttentionWork ExpectedAttentionWork(const model::ModelConfig& config, int64_t seq_length,
                                    double separator_density);

// Parameters that take part in matrix products: all 2-D weights except the embedding's lookup.
int64_t MatmulParameters(const model::ModelConfig& config);

// Forward and backward: 3 (2 N_matmul tokens + 4 D H visited_pairs); the backward pass costs twice
// the forward pass.
double TrainingFlops(const model::ModelConfig& config, int64_t tokens,
                     const AttentionWork& attention);
double ForwardFlops(const model::ModelConfig& config, int64_t tokens,
                    const AttentionWork& attention);

// FLOPs % of SepLLM's Table 2 (arXiv 2412.12094): forward FLOPs per token, 2 N + 4 T C L kept / 2,
// over the same with the whole T x T square, 2 N + 4 T C L. N counts the parameters outside
// embedding and head. For pythia-160m at T = 2048: 69.3 + 30.7 Attn% / 200.
double PaperFlopsPercent(const model::ModelConfig& config, int64_t seq_length, double kept_share);

}  // namespace sepia::trainer
