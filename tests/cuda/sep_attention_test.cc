// The Sep-Attention kernels on the emulated device, against the double oracle and their own laws.
#include "kernels/cuda/sep_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "kernels/cuda/emulation/emulation.h"
#include "tests/cuda/sep_attention_trial.h"
#include "tests/kernels/attention_laws.h"
#include "tests/kernels/op_test.h"

namespace sepia::kernels::cuda {
namespace {

using emulation::AllCounters;
using emulation::AsyncCopies;
using emulation::MutableOptions;
using ::testing::HasSubstr;
using Case = testing::SepAttentionCase;
using Trial = testing::SepAttentionTrial;

class CudaSepAttentionTest : public ::testing::Test {
 protected:
  ~CudaSepAttentionTest() override {
    MutableOptions() = {};
    emulation::ResetCounters();
  }

  // Each case under an order of threads of its own.
  void ExpectMatchesOracle(const Case& c) {
    ++MutableOptions().seed;
    MutableOptions().async_copies = static_cast<AsyncCopies>(MutableOptions().seed % 3);
    Trial trial(c);
    trial.Compute();
    trial.ExpectMatchesOracle();
  }
};

// Around every tile: 16 (mma rows, column groups), 32 (rows of a warp), 64 and 128 (tiles).
TEST_F(CudaSepAttentionTest, LengthsAndWindowsAroundTileEdges) {
  for (const int64_t seq_length : {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 193}) {
    for (const int64_t window : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{16}, int64_t{17},
                                 int64_t{64}, seq_length - 1, seq_length, seq_length + 1}) {
      if (window < 1) continue;
      ExpectMatchesOracle({.seq_length = seq_length, .window = window});
    }
  }
}

TEST_F(CudaSepAttentionTest, EveryHeadSizeIsATensorCoreKernel) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (int64_t head_dim = 8; head_dim <= 256; head_dim += 8) {
      ExpectMatchesOracle({.seq_length = 83, .head_dim = head_dim, .dtype = dtype});
    }
  }
}

TEST_F(CudaSepAttentionTest, Kinds) {
  for (const int32_t num_initial : {0, 1, 3, 40}) {
    Case c = {.seq_length = 149, .num_heads = 2, .num_initial = num_initial};
    for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kSep,
                                     AttentionKind::kStreaming, AttentionKind::kFixedStride}) {
      c.kind = kind;
      c.stride = kind == AttentionKind::kFixedStride ? 5 : 0;
      ExpectMatchesOracle(c);
    }
  }
}

TEST_F(CudaSepAttentionTest, RowsOfVeryDifferentDensity) {
  for (const int64_t head_dim : {32, 80, 128}) {
    ExpectMatchesOracle({.batch_size = 3,
                         .seq_length = 230,
                         .num_heads = 2,
                         .head_dim = head_dim,
                         .num_initial = 0,
                         .density = {0.0, 1.0, 0.1}});
  }
}

// Four query segments of the far pass, whose partial gradients the band pass adds.
TEST_F(CudaSepAttentionTest, SplitOverQuerySegments) {
  ExpectMatchesOracle({.seq_length = 2100, .head_dim = 32, .window = 40, .density = {0.1}});
}

// Scores of several hundred: the softmax must not overflow, and its tail must vanish quietly.
TEST_F(CudaSepAttentionTest, LargeScores) {
  ExpectMatchesOracle({.seq_length = 120, .head_dim = 16, .query_scale = 15});
}

TEST_F(CudaSepAttentionTest, WindowCoversAllEqualsDense) {
  kernels::testing::ExpectWindowThatCoversAllIsDense<Trial>();
}
TEST_F(CudaSepAttentionTest, AllSeparatorsEqualsDense) {
  kernels::testing::ExpectAllSeparatorsIsDense<Trial>();
}
TEST_F(CudaSepAttentionTest, NoSeparatorsEqualsStreaming) {
  kernels::testing::ExpectNoSeparatorsIsStreaming<Trial>();
}

TEST_F(CudaSepAttentionTest, SameBitsForEveryOrderOfBlocksAndThreads) {
  const std::vector<Case> cases = {
      {.seq_length = 200, .num_heads = 2, .head_dim = 80, .window = 33},
      {.seq_length = 130, .num_heads = 2, .head_dim = 256, .window = 33},
      // Two segments of the far pass.
      {.seq_length = 1030, .head_dim = 64, .window = 20, .density = {0.3}},
  };
  for (const Case& c : cases) {
    Trial first(c);
    first.Compute();
    for (uint64_t seed = 1; seed < 5; ++seed) {
      MutableOptions() = {.seed = seed, .async_copies = static_cast<AsyncCopies>(seed % 3)};
      Trial other(c);
      other.Compute();
      other.ExpectSame(first);
    }
    MutableOptions() = {};
  }
}

TEST_F(CudaSepAttentionTest, Fallback) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t head_dim : {1, 20, 33}) {
      for (const int64_t window : {1, 40}) {
        ExpectMatchesOracle({.batch_size = 2,
                             .seq_length = 77,
                             .num_heads = 2,
                             .head_dim = head_dim,
                             .window = window,
                             .density = {0.2, 0.0},
                             .dtype = dtype,
                             .allow_fallback = true});
      }
    }
  }
  ExpectMatchesOracle(
      {.seq_length = 41, .head_dim = 256, .dtype = DType::kFloat32, .allow_fallback = true});
}

TEST_F(CudaSepAttentionTest, NamesItsKernelAndRefusesTheFallbackUnlessAllowed) {
  const auto name = [](const Case& c) {
    Trial trial(c);
    trial.ComputeForward();
    return trial.kernel_name();
  };
  EXPECT_EQ(name({.head_dim = 64}), "mma.sync bf16 D=64");
  EXPECT_EQ(name({.head_dim = 96, .dtype = DType::kFloat16}), "mma.sync f16 D=96 in 128");
  EXPECT_EQ(name({.head_dim = 20, .allow_fallback = true}), "fallback bf16");
  EXPECT_THROW(name({.head_dim = 20}), UserError);
  EXPECT_THROW(name({.dtype = DType::kFloat32}), UserError);
  EXPECT_THROW(name({.head_dim = 264, .allow_fallback = true}), UserError);
}

// Divergence must stay visible: the loss scaler looks for it in the gradients.
TEST_F(CudaSepAttentionTest, NonFiniteInputsReachTheOutputs) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), inf, -inf}) {
    for (const int64_t part : {0, 1, 2}) {
      Trial trial({.seq_length = 60});
      kernels::testing::Set(trial.qkv(), (50 * 3 + part) * 64 + 2, bad);
      trial.Compute();
      const std::vector<double> dqkv = kernels::testing::Values(trial.dqkv());
      EXPECT_TRUE(std::any_of(dqkv.begin(), dqkv.end(), [](double x) { return !std::isfinite(x); }))
          << bad << " in part " << part;
    }
  }
}

// Work is proportional to visible pairs: mma instructions over those that D columns of the visible
// pairs alone would fill, 2048 multiply-adds each.
TEST_F(CudaSepAttentionTest, MmaCountNearTheVisiblePairs) {
  struct Limit {
    int64_t seq_length;
    double ratio;
  };
  for (const auto& [seq_length, limit] : {Limit{2048, 1.25}, Limit{8192, 1.08}}) {
    emulation::ResetCounters();
    Trial trial({.seq_length = seq_length, .window = 64});
    trial.Compute();
    const AttentionIndex index(trial.problem().tokens, 1, seq_length, trial.problem().spec);
    const double ideal = static_cast<double>(index.VisiblePairs(64)) * 64 / 2048;
    auto& counters = AllCounters();
    const auto mma = [&](const char* kernel) { return static_cast<double>(counters[kernel].mma); };
    const double forward = mma("SepForward") / (2 * ideal), dq = mma("SepDq") / (3 * ideal);
    const double dkv = (mma("SepDkvFar") + mma("SepDkvBand")) / (4 * ideal);
    RecordProperty(fmt::format("mma_over_ideal_T{}", seq_length),
                   fmt::format("forward {:.3f} dq {:.3f} dkv {:.3f}", forward, dq, dkv));
    EXPECT_LE(forward, limit);
    EXPECT_LE(dq, limit);
    EXPECT_LE(dkv, limit);
  }
}

// ldmatrix meets no bank conflict at any tile width, copies and epilogues hardly any, and global
// memory is moved in whole sectors but for the ends of rows.
TEST_F(CudaSepAttentionTest, NoBankConflictsAndWholeSectors) {
  for (const int64_t head_dim : {32, 64, 80, 128, 256}) {
    emulation::ResetCounters();
    MutableOptions().count_memory = true;
    Trial trial({.seq_length = 256, .head_dim = head_dim, .window = 64});
    trial.Compute();
    for (const char* kernel : {"SepForward", "SepDq", "SepDkvFar", "SepDkvBand"}) {
      const emulation::Counters& c = AllCounters()[kernel];
      EXPECT_EQ(c.load_matrix_wavefronts, 4 * c.load_matrix) << kernel << " " << head_dim;
      // Rows of 10 chunks: eight neighbouring copies that span two of them meet once.
      const double shared_limit = head_dim == 80 ? 1.6 : 1.1;
      EXPECT_LE(static_cast<double>(c.shared_wavefronts),
                shared_limit * static_cast<double>(c.shared_wavefronts_ideal))
          << kernel << " " << head_dim;
      EXPECT_LE(static_cast<double>(c.global_sectors),
                1.25 * static_cast<double>(c.global_sectors_ideal))
          << kernel << " " << head_dim;
    }
  }
}

}  // namespace
}  // namespace sepia::kernels::cuda
