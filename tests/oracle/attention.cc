#include "tests/oracle/attention.h"

#include <algorithm>
#include <cmath>

namespace sepia::testing {
namespace {

// One row of one head: the scores of query i, its log-sum-exp, and the size of its exponents.
struct Row {
  std::vector<int64_t> keys;
  std::vector<double> probability;
  double lse = 0;
  double exponent_size = 0;
};

class Head {
 public:
  Head(const AttentionProblem& problem, int64_t batch, int64_t head)
      : problem_(problem), batch_(batch), head_(head) {}

  // Index of (token i, part, dimension 0) in qkv; part 0, 1, 2 = q, k, v.
  size_t QkvAt(int64_t i, int64_t part) const {
    const AttentionProblem& p = problem_;
    return static_cast<size_t>((((batch_ * p.seq_length + i) * p.num_heads + head_) * 3 + part) *
                               p.head_dim);
  }
  size_t OutAt(int64_t i) const {
    const AttentionProblem& p = problem_;
    return static_cast<size_t>(((batch_ * p.seq_length + i) * p.num_heads + head_) * p.head_dim);
  }
  size_t LseAt(int64_t i) const {
    return static_cast<size_t>((batch_ * problem_.num_heads + head_) * problem_.seq_length + i);
  }
  size_t dim() const { return static_cast<size_t>(problem_.head_dim); }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(problem_.head_dim)); }

  Row Softmax(int64_t i) const {
    Row row;
    const double* q = &problem_.qkv[QkvAt(i, 0)];
    double size = 0;
    for (int64_t j = 0; j <= i; ++j) {
      if (!problem_.Sees(batch_, i, j)) continue;
      const double* k = &problem_.qkv[QkvAt(j, 1)];
      double score = 0;
      double absolute = 0;
      for (size_t d = 0; d < dim(); ++d) {
        score += q[d] * k[d];
        absolute += std::fabs(q[d] * k[d]);
      }
      row.keys.push_back(j);
      row.probability.push_back(score * scale());
      size = std::max(size, absolute * scale());
    }
    const double maximum = *std::max_element(row.probability.begin(), row.probability.end());
    double sum = 0;
    for (const double score : row.probability) sum += std::exp(score - maximum);
    row.lse = maximum + std::log(sum);
    for (double& score : row.probability) score = std::exp(score - row.lse);
    row.exponent_size = 1 + size + std::fabs(row.lse);
    return row;
  }

 private:
  const AttentionProblem& problem_;
  int64_t batch_;
  int64_t head_;
};

template <typename Fn>
void ForEachHead(const AttentionProblem& problem, const Fn& fn) {
  for (int64_t b = 0; b < problem.batch_size; ++b) {
    for (int64_t h = 0; h < problem.num_heads; ++h) fn(Head(problem, b, h));
  }
}

WithMagnitude Zeros(size_t size) {
  const std::vector<double> zeros(size, 0.0);
  return {zeros, zeros, zeros};
}

void BackwardRow(const AttentionProblem& problem, const Head& head, int64_t i,
                 const std::vector<double>& out, const std::vector<double>& dout,
                 WithMagnitude& dqkv) {
  const Row row = head.Softmax(i);
  const double* o = &out[head.OutAt(i)];
  const double* g = &dout[head.OutAt(i)];
  double mean = 0;
  double mean_size = 0;
  for (size_t d = 0; d < head.dim(); ++d) {
    mean += g[d] * o[d];
    mean_size += std::fabs(g[d] * o[d]);
  }
  const auto add = [&](size_t at, double value, double size) {
    dqkv.value[at] += value;
    dqkv.magnitude[at] += std::fabs(size) * row.exponent_size;
    dqkv.terms[at] += std::fabs(value);
  };
  for (size_t n = 0; n < row.keys.size(); ++n) {
    const size_t q_at = head.QkvAt(i, 0);
    const size_t k_at = head.QkvAt(row.keys[n], 1);
    const size_t v_at = head.QkvAt(row.keys[n], 2);
    const double p = row.probability[n];
    double dp = 0;
    double dp_size = 0;
    for (size_t d = 0; d < head.dim(); ++d) {
      dp += g[d] * problem.qkv[v_at + d];
      dp_size += std::fabs(g[d] * problem.qkv[v_at + d]);
    }
    const double ds = p * (dp - mean) * head.scale();
    const double ds_size = p * (dp_size + mean_size) * head.scale();
    for (size_t d = 0; d < head.dim(); ++d) {
      add(q_at + d, ds * problem.qkv[k_at + d], ds_size * problem.qkv[k_at + d]);
      add(k_at + d, ds * problem.qkv[q_at + d], ds_size * problem.qkv[q_at + d]);
      add(v_at + d, p * g[d], p * g[d]);
    }
  }
}

}  // namespace

bool AttentionProblem::Sees(int64_t row, int64_t i, int64_t j) const {
  if (j > i) return false;
  if (spec.kind == AttentionKind::kFull) return true;
  if (i - j < window || j < spec.num_initial) return true;
  if (spec.kind == AttentionKind::kFixedStride) return j % spec.stride == 0;
  if (spec.kind == AttentionKind::kStreaming) return false;
  const int32_t token = tokens[static_cast<size_t>(row * seq_length + j)];
  return std::find(spec.separator_ids.begin(), spec.separator_ids.end(), token) !=
         spec.separator_ids.end();
}

int64_t AttentionProblem::VisiblePairs() const {
  int64_t pairs = 0;
  for (int64_t b = 0; b < batch_size; ++b) {
    for (int64_t i = 0; i < seq_length; ++i) {
      for (int64_t j = 0; j <= i; ++j) pairs += Sees(b, i, j) ? 1 : 0;
    }
  }
  return pairs;
}

AttentionForwardResult AttentionForward(const AttentionProblem& problem) {
  const auto rows =
      static_cast<size_t>(problem.batch_size * problem.seq_length * problem.num_heads);
  AttentionForwardResult result{Zeros(rows * static_cast<size_t>(problem.head_dim)), Zeros(rows)};
  ForEachHead(problem, [&](const Head& head) {
    for (int64_t i = 0; i < problem.seq_length; ++i) {
      const Row row = head.Softmax(i);
      result.lse.value[head.LseAt(i)] = row.lse;
      result.lse.magnitude[head.LseAt(i)] = row.exponent_size;
      for (size_t n = 0; n < row.keys.size(); ++n) {
        const double* v = &problem.qkv[head.QkvAt(row.keys[n], 2)];
        for (size_t d = 0; d < head.dim(); ++d) {
          const double term = row.probability[n] * v[d];
          result.out.value[head.OutAt(i) + d] += term;
          result.out.magnitude[head.OutAt(i) + d] += std::fabs(term) * row.exponent_size;
        result.out.terms[head.OutAt(i) + d] += std::fabs(term);
        }
      }
    }
  });
  return result;
}

WithMagnitude AttentionBackward(const AttentionProblem& problem, const std::vector<double>& out,
                                const std::vector<double>& dout) {
  WithMagnitude dqkv = Zeros(problem.qkv.size());
  ForEachHead(problem, [&](const Head& head) {
    for (int64_t i = 0; i < problem.seq_length; ++i) {
      BackwardRow(problem, head, i, out, dout, dqkv);
    }
  });
  return dqkv;
}

}  // namespace sepia::testing
