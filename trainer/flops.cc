#include "trainer/flops.h"

#include <algorithm>

#include "base/check.h"

namespace sepia::trainer {
namespace {

double Triangle(int64_t n) { return 0.5 * static_cast<double>(n) * static_cast<double>(n + 1); }

// Pairs inside the band i - window < j <= i of one row.
double BandPairs(int64_t seq_length, int64_t window) {
  const int64_t n = std::min(window, seq_length);
  return Triangle(n) + static_cast<double>(n) * static_cast<double>(seq_length - n);
}

// Pairs (i, j) with j <= i - window whose key is visible from afar: position j is seen by
// T - window - j later queries.
double FarPairs(int64_t seq_length, const model::LayerAttention& layer, double density) {
  double pairs = 0;
  for (int64_t j = 0; j < seq_length - layer.window; ++j) {
    double visible = 0;
    if (j < layer.num_initial) {
      visible = 1;
    } else if (layer.kind == AttentionKind::kSep) {
      visible = density;
    } else if (layer.kind == AttentionKind::kFixedStride) {
      visible = j % layer.stride == 0 ? 1 : 0;
    }
    pairs += visible * static_cast<double>(seq_length - layer.window - j);
  }
  return pairs;
}

}  // namespace

AttentionWork& AttentionWork::operator+=(const AttentionWork& other) {
  visited_pairs += other.visited_pairs;
  causal_pairs += other.causal_pairs;
  return *this;
}

AttentionWork CountAttentionWork(const model::AttentionPlan& plan,
                                 std::span<const std::shared_ptr<const AttentionIndex>> indexes,
                                 int64_t batch_size, int64_t seq_length) {
  const double triangle = static_cast<double>(batch_size) * Triangle(seq_length);
  AttentionWork work;
  for (const model::AttentionPlan::Layer& layer : plan.layers) {
    work.causal_pairs += triangle;
    if (layer.index < 0) {
      work.visited_pairs += static_cast<double>(batch_size) * BandPairs(seq_length, layer.window);
      continue;
    }
    CHECK(static_cast<size_t>(layer.index) < indexes.size(), "index {} of {}", layer.index,
          indexes.size());
    work.visited_pairs +=
        static_cast<double>(indexes[static_cast<size_t>(layer.index)]->VisiblePairs(layer.window));
  }
  return work;
}

AttentionWork ExpectedAttentionWork(const model::ModelConfig& config, int64_t seq_length,
                                    double separator_density) {
  AttentionWork work;
  for (const model::LayerAttention& layer : config.attention) {
    work.causal_pairs += Triangle(seq_length);
    if (layer.kind == AttentionKind::kFull) {
      work.visited_pairs += Triangle(seq_length);
    } else {
      work.visited_pairs +=
          BandPairs(seq_length, layer.window) + FarPairs(seq_length, layer, separator_density);
    }
  }
  return work;
}

int64_t MatmulParameters(const model::ModelConfig& config) {
  const int64_t c = config.hidden_size;
  const int64_t block = 4 * c * c + 2 * c * config.intermediate_size;  // qkv 3, dense 1, MLP 2 F/C
  return config.num_layers * block + config.vocab_size * c;
}

double ForwardFlops(const model::ModelConfig& config, int64_t tokens,
                    const AttentionWork& attention) {
  return 2.0 * static_cast<double>(MatmulParameters(config)) * static_cast<double>(tokens) +
         4.0 * static_cast<double>(config.hidden_size) * attention.visited_pairs;
}

double TrainingFlops(const model::ModelConfig& config, int64_t tokens,
                     const AttentionWork& attention) {
  return 3.0 * ForwardFlops(config, tokens, attention);
}

double PaperFlopsPercent(const model::ModelConfig& config, int64_t seq_length, double kept_share) {
  const int64_t embeddings =
      config.vocab_size * config.hidden_size * (config.tie_embeddings ? 1 : 2);
  const double linear = 2.0 * static_cast<double>(config.num_parameters() - embeddings);
  const double square = 4.0 * static_cast<double>(seq_length) *
                        static_cast<double>(config.hidden_size) *
                        static_cast<double>(config.num_layers);
  return 100.0 * (linear + square * kept_share / 2) / (linear + square);
}

}  // namespace sepia::trainer
