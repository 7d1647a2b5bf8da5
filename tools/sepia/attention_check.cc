#include "tools/sepia/attention_check.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sepia::tools {
namespace {

using Vector = std::vector<double>;

constexpr int64_t kQueries = 24;  // sampled a head
constexpr int64_t kKeys = 8;
constexpr int64_t kHeads = 4;

double Element(ConstTensorView tensor, int64_t at) {
  switch (tensor.dtype()) {
    case DType::kBFloat16: return static_cast<float>(tensor.data<BFloat16>()[at]);
    case DType::kFloat16: return static_cast<float>(tensor.data<Float16>()[at]);
    default: return tensor.data<float>()[at];
  }
}

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

double Norm(const Vector& a) { return std::sqrt(Dot(a, a)); }

// A vector that is a sum, and the sizes of its terms.
struct Sum {
  explicit Sum(size_t dim) : value(dim) {}

  // `magnitude`: of the factor's own terms, where those may cancel.
  void Add(double factor, double magnitude, const Vector& from) {
    for (size_t d = 0; d < from.size(); ++d) value[d] += factor * from[d];
    magnitudes += magnitude * Norm(from);
  }

  Vector value;
  double magnitudes = 0;
};

// Relative to the sum, or where its terms cancel (a query with few keys has almost no gradient) to
// 1/64 of their sizes.
double RelativeError(const Vector& actual, const Sum& expected) {
  Vector difference = actual;
  for (size_t d = 0; d < actual.size(); ++d) difference[d] -= expected.value[d];
  const double size = std::max(Norm(expected.value), expected.magnitudes / 64);
  const double error = Norm(difference) / std::max(size, 1e-6);
  return std::isfinite(error) ? error : 1e30;  // std::max would lose a NaN
}

// One (b, h) of the tensors.
class Head {
 public:
  Head(const AttentionTensors& tensors, const AttentionIndex& index, int64_t window, int64_t batch,
       int64_t head)
      : tensors_(tensors), index_(index), window_(window), batch_(batch), head_(head) {}

  int64_t seq_length() const { return tensors_.qkv.dim(1); }
  size_t dim() const { return static_cast<size_t>(tensors_.qkv.dim(4)); }
  double scale() const { return 1 / std::sqrt(static_cast<double>(dim())); }

  // Part 0, 1, 2 = q, k, v.
  Vector Qkv(int64_t i, int64_t part) const { return Part(tensors_.qkv, i, part, 3); }
  Vector Dqkv(int64_t i, int64_t part) const { return Part(tensors_.dqkv, i, part, 3); }
  Vector Out(int64_t i) const { return Part(tensors_.out, i, 0, 1); }
  Vector Dout(int64_t i) const { return Part(tensors_.dout, i, 0, 1); }
  double Lse(int64_t i) const {
    const int64_t row = batch_ * tensors_.qkv.dim(2) + head_;
    return tensors_.lse.data<float>()[row * seq_length() + i];
  }
  bool Sees(int64_t i, int64_t j) const {
    return j <= i && (i - j < window_ || index_.inverse(batch_)[static_cast<size_t>(j)] >= 0);
  }

 private:
  Vector Part(ConstTensorView tensor, int64_t i, int64_t part, int64_t num_parts) const {
    const int64_t row = (batch_ * seq_length() + i) * tensors_.qkv.dim(2) + head_;
    const auto begin = (row * num_parts + part) * static_cast<int64_t>(dim());
    Vector values(dim());
    for (size_t d = 0; d < dim(); ++d) values[d] = Element(tensor, begin + static_cast<int64_t>(d));
    return values;
  }

  const AttentionTensors& tensors_;
  const AttentionIndex& index_;
  int64_t window_;
  int64_t batch_;
  int64_t head_;
};

double QueryError(const Head& head, int64_t i) {
  const Vector q = head.Qkv(i, 0);
  const Vector dout = head.Dout(i);
  std::vector<int64_t> keys;
  Vector scores;
  for (int64_t j = 0; j <= i; ++j) {
    if (!head.Sees(i, j)) continue;
    keys.push_back(j);
    scores.push_back(head.scale() * Dot(q, head.Qkv(j, 1)));
  }
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - maximum);
  const double lse = maximum + std::log(sum);
  const double mean = Dot(dout, head.Out(i));
  Sum out(head.dim());
  Sum dq(head.dim());
  for (size_t n = 0; n < keys.size(); ++n) {
    const double p = std::exp(scores[n] - lse);
    const Vector v = head.Qkv(keys[n], 2);
    const double dp = Dot(dout, v);
    out.Add(p, p, v);
    dq.Add(head.scale() * p * (dp - mean), head.scale() * p * (std::fabs(dp) + std::fabs(mean)),
           head.Qkv(keys[n], 1));
  }
  const double lse_error = std::fabs(head.Lse(i) - lse) / std::max(1.0, std::fabs(lse));
  return std::max({RelativeError(head.Out(i), out), RelativeError(head.Dqkv(i, 0), dq),
                   std::isfinite(lse_error) ? lse_error : 1e30});
}

double KeyError(const Head& head, int64_t j) {
  const Vector k = head.Qkv(j, 1);
  const Vector v = head.Qkv(j, 2);
  Sum dk(head.dim());
  Sum dv(head.dim());
  for (int64_t i = j; i < head.seq_length(); ++i) {
    if (!head.Sees(i, j)) continue;
    const Vector q = head.Qkv(i, 0);
    const Vector dout = head.Dout(i);
    const double p = std::exp(head.scale() * Dot(q, k) - head.Lse(i));
    const double dp = Dot(dout, v);
    const double mean = Dot(dout, head.Out(i));
    dv.Add(p, p, dout);
    dk.Add(head.scale() * p * (dp - mean), head.scale() * p * (std::fabs(dp) + std::fabs(mean)), q);
  }
  return std::max(RelativeError(head.Dqkv(j, 1), dk), RelativeError(head.Dqkv(j, 2), dv));
}

}  // namespace

double WorstAttentionError(const AttentionTensors& tensors, const AttentionIndex& index,
                           int64_t window) {
  const int64_t num_rows = tensors.qkv.dim(0) * tensors.qkv.dim(2);
  const int64_t seq_length = tensors.qkv.dim(1);
  double worst = 0;
  for (int64_t n = 0; n < std::min(num_rows, kHeads); ++n) {
    const int64_t row = n * num_rows / std::min(num_rows, kHeads);
    const Head head(tensors, index, window, row / tensors.qkv.dim(2), row % tensors.qkv.dim(2));
    // Spread over the sequence, its last place included.
    for (int64_t s = 1; s <= std::min(kQueries, seq_length); ++s) {
      worst =
          std::max(worst, QueryError(head, s * seq_length / std::min(kQueries, seq_length) - 1));
    }
    for (int64_t s = 0; s < std::min(kKeys, seq_length); ++s) {
      worst = std::max(worst, KeyError(head, s * seq_length / std::min(kKeys, seq_length)));
    }
  }
  return worst;
}

double AttentionErrorLimit(DType dtype, bool bf16_products) {
  const double rounding = dtype == DType::kFloat32    ? 0
                          : dtype == DType::kBFloat16 ? 0x1p-8
                                                      : 0x1p-11;
  // Terms of random sign: their roundings of 2^-9 each add up to about 2^-9 of the sum; four times
  // that for the worst of hundreds of vectors.
  const double product_rounding = bf16_products ? 4 * 0x1p-9 : 0;
  return rounding + product_rounding + 1e-4;
}

}  // namespace sepia::tools
