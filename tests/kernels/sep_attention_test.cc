// Sep-Attention against the double oracle, its laws, and its independence of threads and scratch.
#include "kernels/sep_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.h"
#include "kernels/cpu/cpu_features.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/attention.h"

namespace sepia::kernels {
namespace {

using ::sepia::testing::AttentionProblem;
using ::sepia::testing::WithMagnitude;
using testing::Set;
using testing::Values;

constexpr int32_t kSeparator = 7;

struct Case {
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

  std::string Describe() const {
    return fmt::format("B {} T {} H {} D {} kind {} window {} initial {} density {} {} threads {}",
                       batch_size, seq_length, num_heads, head_dim, static_cast<int>(kind), window,
                       num_initial, density[0], DTypeName(dtype), num_threads);
  }
};

// A problem with random inputs, and everything that one forward and backward call needs.
class Trial {
 public:
  explicit Trial(const Case& c) : case_(c) {
    problem_ = {.batch_size = c.batch_size,
                .seq_length = c.seq_length,
                .num_heads = c.num_heads,
                .head_dim = c.head_dim,
                .spec = {c.kind, c.num_initial, c.stride, {kSeparator, 1000}},
                .window = c.window,
                .tokens = Tokens(),
                .qkv = {}};
    qkv_ = Random("qkv", {c.batch_size, c.seq_length, c.num_heads, 3, c.head_dim}, c.query_scale);
    dout_ = Random("dout", {c.batch_size, c.seq_length, c.num_heads, c.head_dim}, 1);
    problem_.qkv = Values(qkv_);
    out_ = OwnedTensor(c.dtype, dout_.view().shape());
    dqkv_ = OwnedTensor(c.dtype, qkv_.view().shape());
    lse_ = OwnedTensor(DType::kFloat32, {c.batch_size, c.num_heads, c.seq_length});
    index_.emplace(problem_.tokens, c.batch_size, c.seq_length, problem_.spec);
  }

  // Scratch of exactly the declared size, filled with `poison`, as are all outputs.
  void Compute(uint8_t poison = 0xff) {
    const Case& c = case_;
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
    const auto forward = ::sepia::testing::AttentionForward(problem_);
    ExpectNear("lse", Values(lse_), forward.lse, k, 0);
    ExpectNear("out", Values(out_), forward.out, k, HalfUlp());
    const std::vector<double> out = Values(out_);
    const WithMagnitude dqkv = ::sepia::testing::AttentionBackward(problem_, out, Values(dout_));
    ExpectNear("dqkv", Values(dqkv_), dqkv, k, HalfUlp());
  }

  const AttentionProblem& problem() const { return problem_; }
  TensorView qkv() const { return qkv_; }
  TensorView out() const { return out_; }
  TensorView lse() const { return lse_; }
  TensorView dqkv() const { return dqkv_; }

  // Bit for bit.
  void ExpectSame(const Trial& other) const {
    SCOPED_TRACE(case_.Describe() + " and " + other.case_.Describe());
    EXPECT_TRUE(SameBytes(out_, other.out_));
    EXPECT_TRUE(SameBytes(lse_, other.lse_));
    EXPECT_TRUE(SameBytes(dqkv_, other.dqkv_));
  }

 private:
  static bool SameBytes(ConstTensorView a, ConstTensorView b) {
    return a.num_bytes() == b.num_bytes() &&
           std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.num_bytes())) == 0;
  }

  std::vector<int32_t> Tokens() const {
    const PhiloxStream random(5, "tokens");
    std::vector<int32_t> tokens(static_cast<size_t>(case_.batch_size * case_.seq_length));
    for (size_t i = 0; i < tokens.size(); ++i) {
      const size_t row = i / static_cast<size_t>(case_.seq_length);
      const double density = case_.density[std::min(row, case_.density.size() - 1)];
      const bool separator = random.Uniform(i) < density;
      tokens[i] = separator ? kSeparator : 100 + static_cast<int32_t>(i % 50);
    }
    return tokens;
  }

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
                  const WithMagnitude& expected, double k, double half_ulp) const {
    // Half the spacing of fp16 subnormals; in fp32, probabilities below 2^-125.5 vanish, times
    // inputs and gradients of up to 2^8.
    const double smallest = case_.dtype == DType::kFloat16 && half_ulp > 0 ? 0x1p-25 : 0x1p-117;
    ASSERT_EQ(actual.size(), expected.value.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      const double fp32_error = k * 0x1p-24 * expected.magnitude[i];
      const double bound =
          fp32_error + half_ulp * (std::fabs(expected.value[i]) + fp32_error) * 2 + smallest;
      ASSERT_LE(std::fabs(actual[i] - expected.value[i]), bound)
          << name << "[" << i << "] is " << actual[i] << ", not " << expected.value[i];
    }
  }

  Case case_;
  AttentionProblem problem_;
  std::optional<AttentionIndex> index_;
  OwnedTensor qkv_, dout_, out_, lse_, dqkv_;
};

void ExpectMatchesOracle(const Case& c) {
  Trial run(c);
  run.Compute();
  run.ExpectMatchesOracle();
}

std::vector<cpu::Isa> Isas() {
  std::vector<cpu::Isa> isas = {cpu::Isa::kAvx2};
  if (cpu::DetectCpuFeatures().avx512) isas.push_back(cpu::Isa::kAvx512);
  return isas;
}

class SepAttentionTest : public ::testing::TestWithParam<cpu::Isa> {
  cpu::ScopedIsa isa_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Isas, SepAttentionTest, ::testing::ValuesIn(Isas()),
                         [](const auto& param_info) {
                           return std::string(cpu::IsaName(param_info.param));
                         });

// Around every block size: 6 (register rows), 8, 16 (panels), 48 (group), 96 (tile, chunk),
// 192 (segment).
TEST_P(SepAttentionTest, LengthsAndWindowsAroundBlockEdges) {
  for (const int64_t seq_length : {1, 2, 3, 11, 12, 13, 31, 33, 47, 48, 49, 95, 96, 97, 101, 193}) {
    for (const int64_t window : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{48}, int64_t{97},
                                 seq_length - 1, seq_length, seq_length + 1}) {
      if (window < 1) continue;
      ExpectMatchesOracle({.seq_length = seq_length, .num_heads = 2, .window = window});
    }
  }
}

TEST_P(SepAttentionTest, Kinds) {
  for (const int32_t num_initial : {0, 1, 3, 40}) {
    Case c = {.seq_length = 149, .num_initial = num_initial};
    for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kSep,
                                     AttentionKind::kStreaming, AttentionKind::kFixedStride}) {
      c.kind = kind;
      c.stride = kind == AttentionKind::kFixedStride ? 5 : 0;
      ExpectMatchesOracle(c);
    }
  }
}

TEST_P(SepAttentionTest, HeadSizes) {
  for (const int64_t head_dim : {1, 3, 8, 16, 24, 32, 48, 64, 80, 96, 128, 256}) {
    ExpectMatchesOracle({.seq_length = 67, .head_dim = head_dim});
  }
}

TEST_P(SepAttentionTest, DTypes) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t head_dim : {5, 40, 64}) {
      ExpectMatchesOracle({.seq_length = 131, .head_dim = head_dim, .dtype = dtype});
    }
  }
}

TEST_P(SepAttentionTest, RowsOfVeryDifferentDensity) {
  ExpectMatchesOracle({.batch_size = 3,
                       .seq_length = 230,
                       .num_heads = 2,
                       .num_initial = 0,
                       .density = {0.0, 1.0, 0.1}});
}

// One segment a head (16 heads), a ring that wraps several times, several packed chunks.
TEST_P(SepAttentionTest, LongSequences) {
  ExpectMatchesOracle({.seq_length = 601, .num_heads = 16, .window = 100, .density = {0.6}});
  ExpectMatchesOracle({.seq_length = 601, .num_heads = 1, .window = 30, .density = {0.5}});
  ExpectMatchesOracle({.seq_length = 601, .num_heads = 1, .kind = AttentionKind::kFull});
}

// Scores of several hundred: the softmax must not overflow, and its tail must vanish quietly.
TEST_P(SepAttentionTest, LargeScores) {
  ExpectMatchesOracle({.seq_length = 120, .head_dim = 16, .query_scale = 15});
}

TEST_P(SepAttentionTest, WindowCoversAllEqualsDense) {
  Trial dense({.seq_length = 150, .kind = AttentionKind::kFull});
  dense.Compute();
  for (const int64_t window : {int64_t{150}, int64_t{151}, std::numeric_limits<int64_t>::max()}) {
    Trial wide({.seq_length = 150, .window = window});
    wide.Compute();
    wide.ExpectSame(dense);
  }
}

// The dense answer by the packed route: an independent order of the same sums.
TEST_P(SepAttentionTest, AllSeparatorsEqualsDense) {
  Trial packed({.seq_length = 301, .window = 1, .density = {1.0}});
  packed.Compute();
  EXPECT_EQ(packed.problem().VisiblePairs(), 301 * 302 / 2);
  packed.ExpectMatchesOracle();
}

TEST_P(SepAttentionTest, NoSeparatorsEqualsStreaming) {
  Trial sep({.seq_length = 150, .density = {0.0}});
  Trial streaming({.seq_length = 150, .kind = AttentionKind::kStreaming});
  sep.Compute();
  streaming.Compute();
  sep.ExpectSame(streaming);
}

TEST_P(SepAttentionTest, SameBitsForAnyNumberOfThreads) {
  for (const int64_t num_heads : {1, 3, 17}) {
    Case c = {.seq_length = 450, .num_heads = num_heads, .window = 70, .num_threads = 1};
    Trial one(c);
    one.Compute();
    for (const int num_threads : {2, 3, 5, 8}) {
      c.num_threads = num_threads;
      Trial many(c);
      many.Compute();
      many.ExpectSame(one);
    }
  }
}

TEST_P(SepAttentionTest, ScratchContentDoesNotMatter) {
  const Case c = {.seq_length = 250, .num_heads = 2, .head_dim = 24};
  Trial poisoned(c);
  Trial zeroed(c);
  poisoned.Compute(0xff);
  zeroed.Compute(0);
  poisoned.ExpectSame(zeroed);
}

// Divergence must stay visible: the loss scaler looks for it in the gradients.
TEST_P(SepAttentionTest, NonFiniteInputsReachTheOutputs) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), inf, -inf}) {
    for (const int64_t part : {0, 1, 2}) {
      Trial run({.seq_length = 60});
      Set(run.qkv(), (50 * 3 + part) * 8 + 2, bad);
      run.Compute();
      const std::vector<double> dqkv = Values(run.dqkv());
      EXPECT_TRUE(std::any_of(dqkv.begin(), dqkv.end(), [](double x) { return !std::isfinite(x); }))
          << bad << " in part " << part;
    }
  }
}

TEST(SepAttentionScratchTest, CountingArenaSeesTheDeclaredSize) {
  for (const int64_t num_heads : {1, 2, 40}) {
    Arena scratch("scratch");
    Context ctx = {Device::kCpu, 3, &scratch};
    const ConstTensorView qkv(nullptr, DType::kBFloat16, {2, 1000, num_heads, 3, 64});
    const TensorView dqkv(nullptr, DType::kBFloat16, {2, 1000, num_heads, 3, 64});
    const TensorView out(nullptr, DType::kBFloat16, {2, 1000, num_heads, 64});
    const TensorView lse(nullptr, DType::kFloat32, {2, num_heads, 1000});
    SepAttentionForward(ctx, {.qkv = qkv, .index = nullptr, .window = 64, .out = out, .lse = lse});
    SepAttentionBackward(ctx, {.qkv = qkv,
                               .index = nullptr,
                               .window = 64,
                               .out = out,
                               .lse = lse,
                               .dout = out,
                               .dqkv = dqkv});
    EXPECT_LE(scratch.high_water_bytes(),
              SepAttentionScratchBytes({2, 1000, num_heads, 64, DType::kBFloat16, 3}));
  }
}

TEST(SepAttentionCheckTest, RefusesWhatDoesNotFit) {
  Trial run({.seq_length = 20});
  Arena scratch("scratch", 1 << 20);
  Context ctx = {Device::kCpu, 1, &scratch};
  const AttentionIndex other(std::vector<int32_t>(21, 0), 1, 21, {AttentionKind::kSep, 3, 0, {1}});
  EXPECT_THROW(
      SepAttentionForward(
          ctx,
          {.qkv = run.qkv(), .index = &other, .window = 4, .out = run.out(), .lse = run.lse()}),
      InternalError);
  EXPECT_THROW(
      SepAttentionForward(
          ctx,
          {.qkv = run.qkv(), .index = nullptr, .window = 0, .out = run.out(), .lse = run.lse()}),
      InternalError);
  EXPECT_THROW(
      SepAttentionForward(
          ctx,
          {.qkv = run.qkv(), .index = nullptr, .window = 4, .out = run.qkv(), .lse = run.lse()}),
      InternalError);
}

// The oracle's own backward against central differences of its forward.
TEST(AttentionOracleTest, BackwardIsTheDerivativeOfForward) {
  Trial run({.batch_size = 2, .seq_length = 13, .num_heads = 2, .head_dim = 4, .window = 4});
  AttentionProblem problem = run.problem();
  const auto forward = ::sepia::testing::AttentionForward(problem);
  const PhiloxStream random(9, "dout");
  std::vector<double> dout(forward.out.value.size());
  for (size_t i = 0; i < dout.size(); ++i) dout[i] = random.Normal(i);
  const auto loss = [&] {
    const auto result = ::sepia::testing::AttentionForward(problem);
    double sum = 0;
    for (size_t i = 0; i < dout.size(); ++i) sum += dout[i] * result.out.value[i];
    return sum;
  };
  const WithMagnitude dqkv = ::sepia::testing::AttentionBackward(problem, forward.out.value, dout);
  // Central differences: truncation h^2 / 6 times a third derivative of order 10, and rounding
  // 2^-53 |loss| / h.
  const double h = 1e-5;
  for (size_t i = 0; i < problem.qkv.size(); ++i) {
    const double value = problem.qkv[i];
    problem.qkv[i] = value + h;
    const double above = loss();
    problem.qkv[i] = value - h;
    const double below = loss();
    problem.qkv[i] = value;
    ASSERT_NEAR((above - below) / (2 * h), dqkv.value[i], 1e-8) << i;
  }
}

}  // namespace
}  // namespace sepia::kernels
