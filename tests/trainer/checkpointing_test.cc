// Checkpoints of several ranks: any layout reads what any other wrote, little more than its share
// of it.
#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_calls.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_file.h"
#include "tests/trainer/checkpointed_ranks.h"

namespace sepia::trainer {
namespace {

using checkpoint::Role;
using ::testing::ElementsAre;

std::vector<Layout> AllLayouts() {
  std::vector<Layout> layouts;
  for (const int tensor : {1, 2, 4}) {
    for (const int data : {1, 2, 4}) {
      if (tensor * data > 8) continue;
      layouts.push_back({tensor, data, 0});
      if (data > 1) layouts.push_back({tensor, data, 1});
    }
  }
  return layouts;
}

// Every layout of at most eight ranks writes, every layout reads: all elements bit for bit, the
// state that says which sample comes next, and the same loss but for the order of sums over 64
// channels and 192 tokens, some 1e-7 x sqrt(64) of values near 5.
TEST_F(CheckpointingTest, EveryLayoutReadsWhatEveryLayoutWrote) {
  constexpr double kTolerance = 1e-5;
  double loss = 0;
  int pairs = 0;
  for (const Layout& source : AllLayouts()) {
    root_ = dir_.File(source.Name());
    OnRanks(source, [&](CheckpointedRank& rank) {
      rank.Fill();
      rank.checkpoints().Save(SomeState(9));
      rank.checkpoints().Finish();
      const double own = rank.Loss();
      const std::lock_guard lock(mutex_);
      if (loss == 0) loss = own;
      EXPECT_NEAR(own, loss, kTolerance);
    });
    const checkpoint::CheckpointReader reader(StepPath(9));
    EXPECT_EQ(reader.manifest().shards.size(), static_cast<size_t>(source.ranks()));
    EXPECT_THAT(reader.VerifyDeep(), ElementsAre());
    for (const Layout& target : AllLayouts()) {
      SCOPED_TRACE(source.Name() + " -> " + target.Name());
      ++pairs;
      OnRanks(target, [&](CheckpointedRank& rank) {
        checkpoint::TrainState state = SomeState(0);
        rank.checkpoints().LoadOrInitialize(rank.ctx(), &state);
        EXPECT_EQ(state, SomeState(9));
        EXPECT_EQ(rank.CountWrong(), 0);
        EXPECT_NEAR(rank.Loss(), loss, kTolerance);
      });
      if (HasFailure()) return;
    }
  }
  EXPECT_EQ(pairs, 13 * 13);
}

// The same for bf16, whose masters lie in memory in another form, and whether a snapshot or the
// memory itself is written.
TEST_F(CheckpointingTest, Bf16IsSavedAndReadInFp32) {
  const std::vector<Layout> layouts = {{1, 1, 0}, {2, 2, 0}, {2, 2, 1}, {1, 4, 1}};
  for (const Layout& source : layouts) {
    for (const char* async : {"true", "false"}) {
      root_ = dir_.File(source.Name() + async);
      double loss = 0;
      const std::vector<std::string> more = {"precision=BF16",
                                             fmt::format("checkpoint.async={}", async)};
      OnRanks(
          source,
          [&](CheckpointedRank& rank) {
            rank.Fill();
            rank.checkpoints().Save(SomeState(9));
            rank.checkpoints().Finish();
            EXPECT_EQ(rank.CountWrong(), 0);
            const double own = rank.Loss();
            if (rank.rank() == 0) loss = own;
          },
          {}, more);
      for (const Layout& target : layouts) {
        SCOPED_TRACE(source.Name() + " -> " + target.Name());
        OnRanks(
            target,
            [&](CheckpointedRank& rank) {
              checkpoint::TrainState state = SomeState(0);
              rank.checkpoints().LoadOrInitialize(rank.ctx(), &state);
              EXPECT_EQ(rank.CountWrong(), 0);
              // The order of sums, and that of rounding to bf16, is the layout's.
              EXPECT_NEAR(rank.Loss(), loss, target.Name() == source.Name() ? 0 : 0.02);
            },
            {}, more);
      }
      // What is stored is plain fp32, the same for both: any build reads it in any precision.
      OnRanks({2, 1, 0},
              [&](CheckpointedRank& rank) {
                checkpoint::TrainState state = SomeState(0);
                rank.checkpoints().LoadOrInitialize(rank.ctx(), &state);
                EXPECT_EQ(rank.CountWrong(), 0);
              },
              {.overrides = {"precision"}});
      if (HasFailure()) return;
    }
  }
}

// Counts what each thread reads.
class CountingReads : public FileCalls {
 public:
  ssize_t ReadAt(int fd, std::span<std::byte> bytes, int64_t offset) override {
    const ssize_t got = FileCalls::ReadAt(fd, bytes, offset);
    const std::lock_guard lock(mutex_);
    bytes_[std::this_thread::get_id()] += std::max<ssize_t>(got, 0);
    return got;
  }
  int64_t OfThisThread() {
    const std::lock_guard lock(mutex_);
    return bytes_[std::this_thread::get_id()];
  }

 private:
  std::mutex mutex_;
  std::map<std::thread::id, int64_t> bytes_;
};

// The reader reads the chunks that it must, each once, and besides them manifest, seal and frames.
TEST_F(CheckpointingTest, LoadingReadsEachChunkOnce) {
  Save({2, 2, 1}, 4);
  const checkpoint::CheckpointReader reader(StepPath(4));
  const auto frames =
      static_cast<int64_t>(std::filesystem::file_size(StepPath(4) + "/MANIFEST.pb") +
                           std::filesystem::file_size(StepPath(4) + "/COMMIT") +
                           reader.manifest().shards.size() *
                               (checkpoint::kShardHeaderBytes + checkpoint::kShardTrailerBytes));
  CountingReads counter;
  const ScopedFileCalls scope(&counter);
  const Layout target{2, 4, 1};
  OnRanks(target, [&](CheckpointedRank& rank) {
    const int64_t before = counter.OfThisThread();
    checkpoint::TrainState state = SomeState(0);
    rank.checkpoints().LoadOrInitialize(rank.ctx(), &state);
    const int64_t read = counter.OfThisThread() - before;
    int64_t needed = 0;
    std::map<std::pair<int, int64_t>, int64_t> chunks;  // by shard and offset
    const auto add = [&](const std::vector<StateTensor>& tensors, Role role) {
      for (const StateTensor& tensor : tensors) {
        for (const auto& chunk : reader.Get(tensor.name, role).chunks) {
          if (!chunk.part.Overlaps({tensor.offset, tensor.view.shape()})) continue;
          chunks[{chunk.shard, chunk.offset}] = 4 * chunk.part.num_elements();
        }
      }
    };
    add(rank.optimizer().Masters(), Role::kMaster);
    add(rank.optimizer().FirstMoments(), Role::kExpAvg);
    add(rank.optimizer().SecondMoments(), Role::kExpAvgSq);
    for (const auto& [place, bytes] : chunks) needed += bytes;
    // Rank 0 looks for the newest, every rank opens it twice: as a run to compare, and as a model.
    EXPECT_LE(read, needed + (rank.rank() == 0 ? 3 : 2) * frames);
    EXPECT_GE(read, needed);
  });
}

// What is saved is what was there when Save was called, however soon training goes on.
TEST_F(CheckpointingTest, BackgroundSavesHoldTheMomentOfTheCall) {
  const Layout layout{1, 2, 1};
  OnRanks(layout, [&](CheckpointedRank& rank) {
    rank.Fill();
    rank.checkpoints().Save(SomeState(3));
    for (const NamedTensor& tensor : rank.optimizer().FirstMoments()) {
      std::fill_n(tensor.view.data<float>(), tensor.view.num_elements(), 7.0f);
    }
    rank.checkpoints().Finish();
  });
  EXPECT_EQ(Load(layout).step, 3);
}

}  // namespace
}  // namespace sepia::trainer
