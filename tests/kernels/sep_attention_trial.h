// A Sep-Attention problem with random inputs, its forward and backward call, and the comparison
// with the double oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.h"
#include "kernels/cpu/sep_attention.h"
#include "kernels/sep_attention.h"
#include "tests/kernels/attention_laws.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/attention.h"

namespace sepia::kernels::testing {

struct AttentionCase {
  int64_t batch_size = 1;
  int64_t seq_length = 1;
  int64_t num_heads = 1;
  int64_t head_dim = 8;
  AttentionKind kind = AttentionKind::kSep;
  int64_t window = 16;
  int32_t num_initial = 3;
  int32_t stride = 0;
  std::vector<double> density = {0.16};  // of separators, per row (the last one repeats)
  DType dtype = DType::kFloat32;
  double query_scale = 1;
  int num_threads = 2;
  Poison poison = {};

  std::string Describe() const {
    return fmt::format("B {} T {} H {} D {} kind {} window {} initial {} density {} {} threads {}",
                       batch_size, seq_length, num_heads, head_dim, static_cast<int>(kind), window,
                       num_initial, density[0], DTypeName(dtype), num_threads);
  }
};

// A problem with random inputs, and everything that one forward and backward call needs.
class AttentionTrial {
 public:
  explicit AttentionTrial(const AttentionCase& c) : case_(c) {
    problem_ = {.batch_size = c.batch_size,
                .seq_length = c.seq_length,
                .num_heads = c.num_heads,
                .head_dim = c.head_dim,
                .spec = {c.kind, c.num_initial, c.stride, {kSeparator, 1000}},
                .window = c.window,
                .tokens = {},
                .qkv = {}};
    qkv_ = Random("qkv", {c.batch_size, c.seq_length, c.num_heads, 3, c.head_dim}, c.query_scale);
    dout_ = Random("dout", {c.batch_size, c.seq_length, c.num_heads, c.head_dim}, 1);
    SetPoison(c.poison, qkv_, dout_);
    problem_.tokens = SeparatorTokens(c.batch_size, c.seq_length, c.density);
    problem_.qkv = Values(qkv_);
    out_ = OwnedTensor(c.dtype, dout_.view().shape());
    dqkv_ = OwnedTensor(c.dtype, qkv_.view().shape());
    lse_ = OwnedTensor(DType::kFloat32, {c.batch_size, c.num_heads, c.seq_length});
    index_.emplace(problem_.tokens, c.batch_size, c.seq_length, problem_.spec);
  }

  // Scratch of exactly the declared size, filled with `poison`, as are all outputs.
  void Compute(uint8_t poison = 0xff) {
    const AttentionCase& c = case_;
    const int64_t scratch_bytes = SepAttentionScratchBytes(
        {c.batch_size, c.seq_length, c.num_heads, c.head_dim, c.dtype, c.num_threads});
    Arena scratch("scratch", scratch_bytes);
    {
      ScratchScope all(scratch);
      std::memset(all.Allocate("all", DType::kUInt8, {scratch_bytes}).raw(), poison,
                  static_cast<size_t>(scratch_bytes));
    }
    for (const OwnedTensor* tensor : {&out_, &dqkv_, &lse_}) {
      std::memset(tensor->view().raw(), poison, static_cast<size_t>(tensor->view().num_bytes()));
    }
    Context ctx = {Device::kCpu, c.num_threads, &scratch};
    const AttentionIndex* index = c.kind == AttentionKind::kFull ? nullptr : &*index_;
    const int64_t window = c.kind == AttentionKind::kFull ? c.seq_length : c.window;
    SepAttentionForward(ctx,
                        {.qkv = qkv_, .index = index, .window = window, .out = out_, .lse = lse_});
    SepAttentionBackward(ctx, {.qkv = qkv_,
                               .index = index,
                               .window = window,
                               .out = out_,
                               .lse = lse_,
                               .dout = dout_,
                               .dqkv = dqkv_});
    EXPECT_EQ(scratch.used_bytes(), 0);
  }

  void ExpectMatchesOracle() const {
    SCOPED_TRACE(case_.Describe());
    // Sums of D products, then of at most T probabilities: each addition adds at most half an ulp
    // of what was summed. Every exponent adds its own rounding D times over, forward and (from lse)
    // back. Scaling, exponential, lse and division add a handful. All worst cases, hence no
    // statistics.
    const double k = 2.0 * static_cast<double>(case_.head_dim + case_.seq_length) + 32;
    // Products of bf16 pairs take P and dS rounded: half an ulp of every term.
    const double pairs = cpu::MultipliesPairs(case_.dtype) ? 0x1p-9 * 0x1p24 : 0;
    const auto forward = ::sepia::testing::AttentionForward(problem_);
    ExpectNear("lse", Values(lse_), forward.lse, k, 0);
    ExpectNear("out", Values(out_), forward.out, k + pairs, HalfUlp());
    const std::vector<double> out = Values(out_);
    const ::sepia::testing::WithMagnitude dqkv =
        ::sepia::testing::AttentionBackward(problem_, out, Values(dout_));
    ExpectNear("dqkv", Values(dqkv_), dqkv, k + pairs, HalfUlp());
  }

  const ::sepia::testing::AttentionProblem& problem() const { return problem_; }
  TensorView qkv() const { return qkv_; }
  TensorView out() const { return out_; }
  TensorView lse() const { return lse_; }
  TensorView dqkv() const { return dqkv_; }

  // Bit for bit.
  void ExpectSame(const AttentionTrial& other) const {
    SCOPED_TRACE(case_.Describe() + " and " + other.case_.Describe());
    EXPECT_TRUE(SameBits(out_, other.out_));
    EXPECT_TRUE(SameBits(lse_, other.lse_));
    EXPECT_TRUE(SameBits(dqkv_, other.dqkv_));
  }

 private:
  OwnedTensor Random(const char* name, const Shape& shape, double scale) const {
    const PhiloxStream random(3, name);
    OwnedTensor tensor(case_.dtype, shape);
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      Set(tensor, i, static_cast<float>(scale) * random.Normal(static_cast<uint64_t>(i)));
    }
    return tensor;
  }

  // Relative error of one rounding to the compute dtype.
  double HalfUlp() const {
    switch (case_.dtype) {
      case DType::kBFloat16: return 0x1p-9;
      case DType::kFloat16: return 0x1p-12;
      default: return 0x1p-24;
    }
  }

  void ExpectNear(const char* name, const std::vector<double>& actual,
                  const ::sepia::testing::WithMagnitude& expected, double k,
                  double half_ulp) const {
    // Half the spacing of fp16 subnormals; in fp32, probabilities below 2^-125.5 vanish, times
    // inputs and gradients of up to 2^8.
    const double smallest = case_.dtype == DType::kFloat16 && half_ulp > 0 ? 0x1p-25 : 0x1p-117;
    ASSERT_EQ(actual.size(), expected.value.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      if (!std::isfinite(expected.value[i])) {
        ASSERT_FALSE(std::isfinite(actual[i])) << name << "[" << i << "] hides a NaN";
        continue;
      }
      const double fp32_error = k * 0x1p-24 * expected.magnitude[i];
      const double bound =
          fp32_error + half_ulp * (std::fabs(expected.value[i]) + fp32_error) * 2 + smallest;
      ASSERT_LE(std::fabs(actual[i] - expected.value[i]), bound)
          << name << "[" << i << "] is " << actual[i] << ", not " << expected.value[i];
    }
  }

  AttentionCase case_;
  ::sepia::testing::AttentionProblem problem_;
  std::optional<AttentionIndex> index_;
  OwnedTensor qkv_, dout_, out_, lse_, dqkv_;
};

inline void ExpectMatchesOracle(const AttentionCase& c) {
  AttentionTrial run(c);
  run.Compute();
  run.ExpectMatchesOracle();
}

}  // namespace sepia::kernels::testing
