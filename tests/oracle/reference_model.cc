#include "tests/oracle/reference_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include <fmt/core.h>

namespace sepia::testing {
namespace {

using Matrix = std::vector<std::vector<double>>;

Matrix Plus(const Matrix& a, const Matrix& b) {
  Matrix sum = a;
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t c = 0; c < a[r].size(); ++c) sum[r][c] += b[r][c];
  }
  return sum;
}

double Gelu(double v, kernels::GeluKind kind) {
  if (kind == kernels::GeluKind::kErf) return 0.5 * v * (1 + std::erf(v / std::numbers::sqrt2));
  const double inner = std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v);
  return 0.5 * v * (1 + std::tanh(inner));
}

// Half-split rotation of the first `dims` entries.
void Rotate(double* x, int64_t dims, double base, int64_t position) {
  const int64_t half = dims / 2;
  for (int64_t j = 0; j < half; ++j) {
    const double angle = static_cast<double>(position) *
                         std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(dims));
    const double a = x[j];
    const double b = x[j + half];
    x[j] = a * std::cos(angle) - b * std::sin(angle);
    x[j + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

}  // namespace

bool IsVisible(const model::LayerAttention& rule, const std::vector<int32_t>& separator_ids,
               const std::vector<int32_t>& tokens, int64_t i, int64_t j) {
  if (j > i) return false;
  if (rule.kind == AttentionKind::kFull || i - j < rule.window || j < rule.num_initial) return true;
  if (rule.kind == AttentionKind::kFixedStride) return j % rule.stride == 0;
  return rule.kind == AttentionKind::kSep &&
         std::find(separator_ids.begin(), separator_ids.end(), tokens[static_cast<size_t>(j)]) !=
             separator_ids.end();
}

Matrix ReferenceModel::Linear(const Matrix& x, const std::string& name, bool bias) const {
  const std::vector<double>& w = weight(name + ".weight");
  const size_t in = x[0].size();
  const size_t out = w.size() / in;
  Matrix y(x.size(), std::vector<double>(out));
  for (size_t r = 0; r < x.size(); ++r) {
    for (size_t n = 0; n < out; ++n) {
      double sum = bias ? weight(name + ".bias")[n] : 0;
      for (size_t k = 0; k < in; ++k) sum += x[r][k] * w[n * in + k];
      y[r][n] = sum;
    }
  }
  return y;
}

Matrix ReferenceModel::LayerNorm(const Matrix& x, const std::string& name) const {
  const std::vector<double>& gamma = weight(name + ".weight");
  const std::vector<double>& beta = weight(name + ".bias");
  const size_t width = gamma.size();
  Matrix y = x;
  for (std::vector<double>& row : y) {
    double mean = 0, variance = 0;
    for (const double v : row) mean += v / static_cast<double>(width);
    for (const double v : row) variance += (v - mean) * (v - mean) / static_cast<double>(width);
    const double scale = 1 / std::sqrt(variance + config_.layer_norm_eps);
    for (size_t c = 0; c < width; ++c) row[c] = (row[c] - mean) * scale * gamma[c] + beta[c];
  }
  return y;
}

Matrix ReferenceModel::Attention(const Matrix& x, int64_t layer,
                                 const std::vector<int32_t>& tokens) const {
  const std::string name = fmt::format("gpt_neox.layers.{}.", layer);
  const model::LayerAttention& rule = config_.attention[static_cast<size_t>(layer)];
  const int64_t D = config_.head_dim();
  Matrix qkv = Linear(LayerNorm(x, name + "input_layernorm"), name + "attention.query_key_value",
                      /*bias=*/true);
  Matrix out(x.size(), std::vector<double>(static_cast<size_t>(config_.hidden_size)));
  for (int64_t head = 0; head < config_.num_heads; ++head) {
    const auto part = [&](int64_t row, int64_t which) {
      return qkv[static_cast<size_t>(row)].data() + (head * 3 + which) * D;
    };
    const auto num_rows = static_cast<int64_t>(x.size());
    for (int64_t t = 0; t < num_rows; ++t) {
      Rotate(part(t, 0), config_.rotary_dim(), config_.rotary_base, t);
      Rotate(part(t, 1), config_.rotary_dim(), config_.rotary_base, t);
    }
    for (int64_t i = 0; i < num_rows; ++i) {
      std::vector<double> scores(static_cast<size_t>(i + 1),
                                 -std::numeric_limits<double>::infinity());
      for (int64_t j = 0; j <= i; ++j) {
        if (!IsVisible(rule, config_.separator_ids, tokens, i, j)) continue;
        double dot = 0;
        for (int64_t d = 0; d < D; ++d) dot += part(i, 0)[d] * part(j, 1)[d];
        scores[static_cast<size_t>(j)] = dot / std::sqrt(static_cast<double>(D));
      }
      const double top = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - top);
      for (int64_t j = 0; j <= i; ++j) {
        for (int64_t d = 0; d < D; ++d) {
          out[static_cast<size_t>(i)][static_cast<size_t>(head * D + d)] +=
              scores[static_cast<size_t>(j)] / total * part(j, 2)[d];
        }
      }
    }
  }
  return Linear(out, name + "attention.dense", /*bias=*/true);
}

Matrix ReferenceModel::Mlp(const Matrix& x, int64_t layer) const {
  const std::string name = fmt::format("gpt_neox.layers.{}.", layer);
  Matrix inner = Linear(LayerNorm(x, name + "post_attention_layernorm"), name + "mlp.dense_h_to_4h",
                        /*bias=*/true);
  for (std::vector<double>& row : inner) {
    for (double& v : row) v = Gelu(v, config_.activation);
  }
  return Linear(inner, name + "mlp.dense_4h_to_h", /*bias=*/true);
}

std::vector<double> ReferenceModel::Logits(const std::vector<int32_t>& tokens) const {
  const auto width = config_.hidden_size;
  const double* embedding = weight("gpt_neox.embed_in.weight").data();
  Matrix x;
  for (const int32_t token : tokens) {
    x.emplace_back(embedding + token * width, embedding + (token + 1) * width);
  }
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const Matrix middle = Plus(x, Attention(x, layer, tokens));
    x = Plus(middle, Mlp(config_.parallel_residual ? x : middle, layer));
  }
  const Matrix final = LayerNorm(x, "gpt_neox.final_layer_norm");
  std::vector<double> logits;
  const std::string head = config_.tie_embeddings ? "gpt_neox.embed_in" : "embed_out";
  for (const std::vector<double>& row : Linear(final, head, /*bias=*/false)) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

double ReferenceModel::LossSum(const std::vector<int32_t>& tokens,
                               const std::vector<int32_t>& targets,
                               const std::vector<uint8_t>& mask) const {
  const std::vector<double> logits = Logits(tokens);
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  double loss = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (!mask.empty() && mask[t] == 0) continue;
    const double* row = logits.data() + t * vocab;
    const double top = *std::max_element(row, row + vocab);
    double total = 0;
    for (size_t v = 0; v < vocab; ++v) total += std::exp(row[v] - top);
    loss += std::log(total) + top - row[targets[t]];
  }
  return loss;
}

}  // namespace sepia::testing
