// Sep-Attention on tiles against the double oracle: on the processor's tile unit where it has one,
// and with tiles in plain C++ wherever there is AVX-512.
#include "kernels/cpu/amx/sep_attention.h"

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
#include "tests/kernels/attention_laws.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/attention.h"

namespace sepia::kernels::cpu::amx {
namespace {

using kernels::testing::kSeparator;
using kernels::testing::SeparatorTokens;
using kernels::testing::Set;
using kernels::testing::SetPoison;
using kernels::testing::Values;
using ::sepia::testing::AttentionProblem;
using ::sepia::testing::WithMagnitude;

constexpr int64_t kDense = std::numeric_limits<int64_t>::max();

struct Case {
  int64_t seq_length = 1;
  int64_t window = 64;
  std::vector<double> density = {0.16};  // of separators, one row of the batch each
  int32_t num_initial = 3;
  int64_t num_heads = 1;
  int64_t head_dim = 64;
  double query_scale = 1;
  int num_threads = 2;
  kernels::testing::Poison poison = {};

  std::string Describe() const {
    return fmt::format("B {} T {} H {} D {} window {} initial {} density {} threads {}",
                       density.size(), seq_length, num_heads, head_dim, window, num_initial,
                       density[0], num_threads);
  }
};

// A tensor between stretches of NaN, so that reading past either end shows; aligned as in arenas.
class FencedTensor {
 public:
  explicit FencedTensor(const Shape& shape)
      : memory_(static_cast<size_t>(2 * kFence + shape.num_elements()), BFloat16(std::nanf(""))),
        view_(AfterFence(memory_.data()), DType::kBFloat16, shape) {}
  const TensorView& view() const { return view_; }

 private:
  static constexpr int64_t kFence = 4096;
  static BFloat16* AfterFence(BFloat16* memory) {
    const auto at = reinterpret_cast<uintptr_t>(memory + kFence);
    return reinterpret_cast<BFloat16*>(at / 64 * 64);
  }
  std::vector<BFloat16> memory_;
  TensorView view_;
};

class Trial {
 public:
  Trial(const TileCode& code, const Case& c)
      : code_(code),
        case_(c),
        batch_size_(static_cast<int64_t>(c.density.size())),
        qkv_({batch_size_, c.seq_length, c.num_heads, 3, c.head_dim}),
        dout_({batch_size_, c.seq_length, c.num_heads, c.head_dim}),
        out_(dout_.view().shape()),
        dqkv_(qkv_.view().shape()),
        lse_(DType::kFloat32, {batch_size_, c.num_heads, c.seq_length}) {
    Fill(qkv_.view(), 3, c.query_scale);
    Fill(dout_.view(), 4, 1);
    SetPoison(c.poison, qkv_.view(), dout_.view());
    problem_ = {.batch_size = batch_size_,
                .seq_length = c.seq_length,
                .num_heads = c.num_heads,
                .head_dim = c.head_dim,
                .spec = {AttentionKind::kSep, c.num_initial, 0, {kSeparator, 1000}},
                .window = c.window,
                .tokens = {},
                .qkv = {}};
    problem_.tokens = SeparatorTokens(batch_size_, c.seq_length, c.density);
    problem_.qkv = Values(qkv_.view());
    index_.emplace(problem_.tokens, batch_size_, c.seq_length, problem_.spec);
  }

  // Scratch of exactly the declared size, filled with `poison`, as are all outputs.
  void Compute(uint8_t poison = 0xff) {
    const int64_t bytes =
        SepAttentionScratchBytes({batch_size_, case_.seq_length, case_.num_heads, case_.head_dim,
                                  DType::kBFloat16, case_.num_threads},
                                 code_);
    Arena scratch("scratch", bytes);
    {
      ScratchScope all(scratch);
      Poison(all.Allocate("all", DType::kUInt8, {bytes}), poison);
    }
    for (const TensorView& tensor : {out_.view(), dqkv_.view(), lse_.view()}) {
      Poison(tensor, poison);
    }
    Context ctx = {Device::kCpu, case_.num_threads, &scratch};
    const AttentionIndex* index = case_.window == kDense ? nullptr : &*index_;
    SepAttentionForward(ctx,
                        {.qkv = qkv_.view(),
                         .index = index,
                         .window = case_.window,
                         .out = out_.view(),
                         .lse = lse_.view()},
                        code_);
    SepAttentionBackward(ctx,
                         {.qkv = qkv_.view(),
                          .index = index,
                          .window = case_.window,
                          .out = out_.view(),
                          .lse = lse_.view(),
                          .dout = dout_.view(),
                          .dqkv = dqkv_.view()},
                         code_);
    EXPECT_EQ(scratch.used_bytes(), 0);
  }

  void ExpectMatchesOracle() const {
    SCOPED_TRACE(case_.Describe());
    const double exp2_error = 7.6e-5;  // of the polynomial
    const double rounding = 0x1p-8;    // to bf16, relative
    const auto forward = ::sepia::testing::AttentionForward(problem_);
    // The sum of a row is as wrong as its terms.
    ExpectNear("lse", Values(lse_.view()), forward.lse, 0, exp2_error);
    // Rounded p above, the sum of rounded p below the bar.
    ExpectNear("out", Values(out_.view()), forward.out, 2 * (rounding + exp2_error), 0);
    // p from lse; dS = p (dP - D) rounded.
    const WithMagnitude dqkv =
        ::sepia::testing::AttentionBackward(problem_, Values(out_.view()), Values(dout_.view()));
    ExpectNear("dqkv", Values(dqkv_.view()), dqkv, rounding + 2 * exp2_error, 0);
  }

  const TensorView& qkv() const { return qkv_.view(); }
  const TensorView& dqkv() const { return dqkv_.view(); }

  void ExpectSame(const Trial& other) const {
    SCOPED_TRACE(case_.Describe() + " and " + other.case_.Describe());
    EXPECT_TRUE(kernels::testing::SameBits(out_.view(), other.out_.view()));
    EXPECT_TRUE(kernels::testing::SameBits(lse_.view(), other.lse_.view()));
    EXPECT_TRUE(kernels::testing::SameBits(dqkv_.view(), other.dqkv_.view()));
  }

 private:
  static void Poison(const TensorView& tensor, uint8_t byte) {
    std::memset(tensor.raw(), byte, static_cast<size_t>(tensor.num_bytes()));
  }
  static void Fill(const TensorView& tensor, uint64_t seed, double scale) {
    const PhiloxStream random(seed, "amx_attention_test");
    for (int64_t i = 0; i < tensor.num_elements(); ++i) {
      Set(tensor, i, static_cast<float>(scale) * random.Normal(static_cast<uint64_t>(i)));
    }
  }

  // Errors of p and dS shrink or grow a value by `of_terms` of the sum of its terms' sizes; fp32
  // sums of D products and T terms add 2^-24 of their magnitude each (as in
  // sep_attention_test.cc); bf16 outputs are rounded once. p below 2^-126 vanishes, times inputs
  // and gradients of up to 2^9.
  void ExpectNear(const char* name, const std::vector<double>& actual,
                  const WithMagnitude& expected, double of_terms, double absolute) const {
    const double k = 2.0 * static_cast<double>(case_.head_dim + case_.seq_length) + 32;
    const bool rounded = std::strcmp(name, "lse") != 0;
    ASSERT_EQ(actual.size(), expected.value.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      if (!std::isfinite(expected.value[i])) {
        ASSERT_FALSE(std::isfinite(actual[i])) << name << "[" << i << "] hides a NaN";
        continue;
      }
      const double error =
          k * 0x1p-24 * expected.magnitude[i] + of_terms * expected.terms[i] + absolute + 0x1p-117;
      const double bound =
          error + (rounded ? 0x1p-8 * (std::fabs(expected.value[i]) + error) : 0.0);
      ASSERT_LE(std::fabs(actual[i] - expected.value[i]), bound)
          << name << "[" << i << "] is " << actual[i] << ", not " << expected.value[i];
    }
  }

  const TileCode& code_;
  Case case_;
  int64_t batch_size_;
  FencedTensor qkv_, dout_, out_, dqkv_;
  OwnedTensor lse_;
  AttentionProblem problem_;
  std::optional<AttentionIndex> index_;
};

struct NamedCode {
  const char* name;
  const TileCode* code;
};

std::vector<NamedCode> TileCodes() {
  std::vector<NamedCode> codes;
  const std::vector<Isa> isas = RunnableIsas();
  const auto has = [&](Isa isa) { return std::find(isas.begin(), isas.end(), isa) != isas.end(); };
  if (has(Isa::kAvx512)) codes.push_back({"emulated", &emulated::kTileCode});
  if (has(Isa::kAmx)) codes.push_back({"hardware", &hardware::kTileCode});
  return codes;
}

class AmxAttentionTest : public ::testing::TestWithParam<NamedCode> {
 protected:
  // A trial of the code under test.
  struct ThisTrial : Trial {
    explicit ThisTrial(const Case& c) : Trial(*GetParam().code, c) {}
  };
  const TileCode& code() const { return *GetParam().code; }
  void ExpectMatchesOracle(const Case& c) const {
    Trial trial(code(), c);
    trial.Compute();
    trial.ExpectMatchesOracle();
  }
};
INSTANTIATE_TEST_SUITE_P(Tiles, AmxAttentionTest, ::testing::ValuesIn(TileCodes()),
                         [](const auto& param_info) { return std::string(param_info.param.name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(AmxAttentionTest);

// Around tiles and panels (32), segments (256), primes.
TEST_P(AmxAttentionTest, LengthsAndWindows) {
  for (const int64_t seq_length : {1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 257}) {
    for (const int64_t window : {int64_t{1}, int64_t{2}, int64_t{17}, int64_t{64}, seq_length - 1,
                                 seq_length, seq_length + 1, kDense}) {
      if (window >= 1) ExpectMatchesOracle({.seq_length = seq_length, .window = window});
    }
  }
}

TEST_P(AmxAttentionTest, HeadSizes) {
  for (const int64_t head_dim : {1, 5, 8, 24, 32, 40, 48, 64, 72, 80, 96, 128, 256}) {
    ExpectMatchesOracle({.seq_length = 149, .window = 33, .num_heads = 2, .head_dim = head_dim});
  }
}

TEST_P(AmxAttentionTest, Densities) {
  for (const double density : {0.0, 0.02, 0.16, 0.9, 1.0}) {
    for (const int32_t num_initial : {0, 3, 40}) {
      ExpectMatchesOracle(
          {.seq_length = 331, .window = 31, .density = {density}, .num_initial = num_initial});
    }
  }
}

TEST_P(AmxAttentionTest, RowsOfVeryDifferentDensity) {
  ExpectMatchesOracle({.seq_length = 230,
                       .window = 50,
                       .density = {0.0, 1.0, 0.1},
                       .num_initial = 0,
                       .num_heads = 2});
}

// Heads in segments and, a multiple of the threads, whole: many groups, several spans of either
// kind of panel, a ring that wraps.
TEST_P(AmxAttentionTest, LongSequences) {
  ExpectMatchesOracle({.seq_length = 1100, .window = 64, .head_dim = 16});
  ExpectMatchesOracle({.seq_length = 900, .window = 64, .density = {0.7}, .head_dim = 16});
  ExpectMatchesOracle({.seq_length = 1100, .window = kDense, .head_dim = 8});
  ExpectMatchesOracle({.seq_length = 600, .window = 100, .num_heads = 9, .head_dim = 8});
  ExpectMatchesOracle({.seq_length = 620, .window = kDense, .num_heads = 9, .head_dim = 128});
}

// 4 MiB of q, k and v: results are written past the caches.
TEST_P(AmxAttentionTest, ManyHeads) {
  ExpectMatchesOracle({.seq_length = 43, .window = 20, .num_heads = 260, .head_dim = 64});
}

// A key whose last query in the band ends a group (128 queries), and which begins a panel of packed
// keys (32): some of these densities have one.
TEST_P(AmxAttentionTest, KeysThatLeaveTheBandWithAGroup) {
  for (int percent = 40; percent < 100; percent += 3) {
    ExpectMatchesOracle(
        {.seq_length = 1100, .window = 33, .density = {0.01 * percent}, .head_dim = 8});
  }
}

TEST_P(AmxAttentionTest, RandomShapes) {
  kernels::testing::ExpectRandomShapesMatchTheOracle<ThisTrial, Case>();
}

// Scores of several hundred: beyond what fixed exponents hold.
TEST_P(AmxAttentionTest, LargeScores) {
  for (const double scale : {3.0, 12.0, 15.0}) {
    ExpectMatchesOracle({.seq_length = 177, .window = 40, .query_scale = scale});
  }
}

// With one thread heads are whole, and with other numbers some or all are cut into segments.
TEST_P(AmxAttentionTest, SameBitsForAnyNumberOfThreads) {
  kernels::testing::ExpectSameBitsForAnyNumberOfThreads<ThisTrial, Case>(
      {Case{.seq_length = 600, .window = 70}, Case{.seq_length = 600, .window = 70, .num_heads = 3},
       Case{.seq_length = 600, .window = 70, .num_heads = 17},
       Case{.seq_length = 1500, .window = 200, .density = {0.7, 0.02}, .head_dim = 40},
       Case{.seq_length = 1100, .window = kDense, .num_heads = 2, .head_dim = 16}});
}

TEST_P(AmxAttentionTest, ScratchContentDoesNotMatter) {
  const Case c = {.seq_length = 450, .window = 40, .num_heads = 2, .head_dim = 40};
  Trial poisoned(code(), c);
  Trial zeroed(code(), c);
  poisoned.Compute(0xff);
  zeroed.Compute(0);
  poisoned.ExpectSame(zeroed);
}

TEST_P(AmxAttentionTest, NaNStaysAmongVisiblePairs) {
  for (const int64_t head_dim : {8, 64, 80}) {
    kernels::testing::ExpectNaNStaysAmongVisiblePairs<ThisTrial>(
        Case{.seq_length = 149, .window = 41, .head_dim = head_dim});
  }
  // Several segments and groups; dense, with several spans; two heads of which one is poisoned.
  kernels::testing::ExpectNaNStaysAmongVisiblePairs<ThisTrial>(
      Case{.seq_length = 600, .window = 33, .density = {0.4}, .head_dim = 16});
  kernels::testing::ExpectNaNStaysAmongVisiblePairs<ThisTrial>(
      Case{.seq_length = 610, .window = kDense, .num_heads = 2, .head_dim = 8});
}

TEST_P(AmxAttentionTest, NonFiniteInputsReachTheOutputs) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), inf, -inf}) {
    for (const int64_t part : {0, 1, 2}) {
      Trial trial(code(), {.seq_length = 60});
      Set(trial.qkv(), (50 * 3 + part) * 64 + 2, bad);
      trial.Compute();
      const std::vector<double> dqkv = Values(trial.dqkv());
      EXPECT_TRUE(std::any_of(dqkv.begin(), dqkv.end(), [](double x) { return !std::isfinite(x); }))
          << bad << " in part " << part;
    }
  }
}

// The emulation is the processor's arithmetic, not just close to it.
TEST(AmxTilesTest, EmulationGivesTheBitsOfTheHardware) {
  if (TileCodes().size() < 2) GTEST_SKIP() << "no tile unit here";
  const Case c = {.seq_length = 300, .window = 64, .num_heads = 2, .head_dim = 80};
  Trial emulated(emulated::kTileCode, c);
  Trial hardware(hardware::kTileCode, c);
  emulated.Compute();
  hardware.Compute();
  emulated.ExpectSame(hardware);
}

}  // namespace
}  // namespace sepia::kernels::cpu::amx
