// Checkpoints of several ranks: failures on one rank, damage, and configs that differ.
#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_file.h"
#include "tests/checkpoint/faulty_calls.h"
#include "tests/trainer/checkpointed_ranks.h"

namespace sepia::trainer {
namespace {

using checkpoint::Role;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using CheckpointingFailuresTest = CheckpointingTest;

// A write that fails on any one rank: no commit, everybody knows, the run goes on, and the next
// save is there.
TEST_F(CheckpointingFailuresTest, OneRanksFailureIsEverybodys) {
  const Layout layout{2, 2, 1};
  Save(layout, 1);
  for (int culprit = 0; culprit < layout.ranks(); ++culprit) {
    // By the path, so that only this rank's shard is struck.
    const std::string shard = fmt::format("shard-{:05}-", culprit);
    checkpoint::testing::FaultyCalls counting({.path = shard});
    {
      const ScopedFileCalls scope(&counting);
      Save(layout, 9);
    }
    checkpoint::RemoveCheckpoint(StepPath(9));
    // Open, reservation, a write, the sync, the close.
    const int64_t last = counting.count();
    ASSERT_GT(last, 8);
    for (const int error : {ENOSPC, EIO}) {
      for (const int64_t call : {int64_t{1}, int64_t{2}, int64_t{5}, last - 1, last}) {
        SCOPED_TRACE(fmt::format("rank {}, error {}, call {}", culprit, error, call));
        failed_saves_ = 0;
        OnRanks(layout, [&](CheckpointedRank& rank) {
          static std::unique_ptr<checkpoint::testing::FaultyCalls> calls;
          static std::unique_ptr<ScopedFileCalls> scope;
          rank.Fill();
          if (rank.rank() == 0) {
            calls = std::make_unique<checkpoint::testing::FaultyCalls>(checkpoint::testing::Fault{
                .call = call, .for_ever = true, .error = error, .path = shard});
            scope = std::make_unique<ScopedFileCalls>(calls.get());
          }
          rank.checkpoints().Save(SomeState(2));
          rank.checkpoints().Save(SomeState(3));  // waits for the first
          EXPECT_THROW(rank.checkpoints().Finish(), Error);
          if (rank.rank() == 0) scope.reset();
          rank.checkpoints().Save(SomeState(4));
          rank.checkpoints().Finish();
        });
        EXPECT_EQ(failed_saves_, 2);
        EXPECT_THAT(log_, HasSubstr("failures in a row that are tolerated"));
        std::vector<int64_t> steps;
        for (const auto& c : checkpoint::FindCheckpoints(root_)) steps.push_back(c.step);
        EXPECT_THAT(steps, ElementsAre(4, 1));
        EXPECT_EQ(Load(layout).step, 4);
        checkpoint::RemoveCheckpoint(StepPath(4));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(CheckpointingFailuresTest, TooManyFailuresInARowEndTheRunOnAllRanks) {
  const Layout layout{1, 2, 1};
  checkpoint::testing::FaultyCalls calls(
      {.call = 1, .for_ever = true, .error = EIO, .path = "shard-00001-"});
  const ScopedFileCalls scope(&calls);
  std::atomic<int> ended = 0;
  EXPECT_THROW(OnRanks(layout,
                       [&](CheckpointedRank& rank) {
                         for (int64_t step = 1; step <= 3; ++step) {
                           try {
                             rank.checkpoints().Save(SomeState(step));
                             if (step == 3) rank.checkpoints().Finish();
                           } catch (const Error& error) {
                             EXPECT_EQ(error.code(), ExitCode::kCannotWrite);
                             EXPECT_EQ(step, 3);
                             ++ended;
                             throw;
                           }
                         }
                       },
                       {}, {"checkpoint.max_failures=3"}),
               Error);
  EXPECT_EQ(ended, 2);
}

std::string Damage(const std::string& step) {
  const std::string path = step + "/" + checkpoint::ShardFileName(0, 1);
  File file = File::OpenForAppend(path);
  file.Truncate(file.Size() / 2);
  return path;
}

TEST_F(CheckpointingFailuresTest, FallingBackIsExplicitAndSetsTheDamagedAside) {
  const Layout one;
  for (const int64_t step : {1, 2, 3}) Save(one, step);
  Damage(StepPath(3));
  // Inside a chunk: found only when it is read.
  const checkpoint::CheckpointReader reader(StepPath(2));
  {
    const std::string path = StepPath(2) + "/" + checkpoint::ShardFileName(0, 1);
    std::string bytes = ReadFile(path);
    const auto& chunk = reader.Get("gpt_neox.embed_in.weight", Role::kExpAvg).chunks[0];
    bytes[static_cast<size_t>(chunk.offset) + 3] ^= 1;
    WriteFileAtomic(path, bytes);
  }
  EXPECT_THROW(Load(one), UserError);
  EXPECT_TRUE(FileExists(StepPath(3)));
  EXPECT_EQ(Load(Layout{2, 1, 0}, {.fallback_to_older = true}).step, 1);
  EXPECT_THAT(log_, HasSubstr("is damaged; it is now"));
  EXPECT_TRUE(FileExists(root_ + "/.damaged-step_00000003"));
  EXPECT_TRUE(FileExists(root_ + "/.damaged-step_00000002"));
  EXPECT_EQ(Load(one).step, 1);  // and is not needed again
  Damage(StepPath(1));
  EXPECT_THROW(Load(one, {.fallback_to_older = true}), UserError);
  checkpoint::SetAside(StepPath(1));
  EXPECT_THROW(Load(one, {.fallback_to_older = true}), UserError);  // no silent fresh start
}

std::string Refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST_F(CheckpointingFailuresTest, ADifferentRunIsRefusedFieldByFieldUnlessOverridden) {
  const Layout one;
  Save(one, 5);
  const std::vector<std::string> other = {"model.attention.window=9", "seed=5",
                                          "model.attention.num_initial=1", "optimizer.lr=1e-3"};
  const std::string refusal = Refusal([&] { Load(one, {}, other); });
  for (const char* line : {"model.attention.window: 8 -> 9", "model.attention.num_initial: 3 -> 1",
                           "seed: 1234 -> 5", "--override"}) {
    EXPECT_THAT(refusal, HasSubstr(line));
  }
  EXPECT_THAT(refusal, ::testing::Not(HasSubstr("optimizer.lr")));
  EXPECT_THAT(log_, HasSubstr("changed since the checkpoint: optimizer.lr"));
  // One field named: the others are still refused.
  const std::string rest = Refusal([&] { Load(one, {.overrides = {"model.attention"}}, other); });
  EXPECT_THAT(rest, ::testing::Not(HasSubstr("model.attention")));
  EXPECT_THAT(rest, HasSubstr("seed: 1234 -> 5"));
  EXPECT_EQ(Load(one, {.overrides = {"model.attention", "seed", "data.seed"}}, other).step, 5);
  EXPECT_THAT(log_, HasSubstr("overridden: model.attention.window: 8 -> 9"));
  EXPECT_THAT(Refusal([&] { Load(one, {.overrides = {"model.atention"}}); }),
              HasSubstr("no such field"));
  // Tensors of another shape are none that an override could take.
  const std::string wide = Refusal([&] {
    Load(one, {.overrides = {"model"}}, {"model.num_layers=2", "model.vocab_size=128"});
  });
  EXPECT_THAT(wide, HasSubstr("has shape [96, 64], this run's has [128, 64]"));
}

TEST_F(CheckpointingFailuresTest, OtherDataNeedsItsOverride) {
  const Layout one;
  Save(one, 5);
  const auto load = [&](const CheckpointingOptions& options) {
    OnRanks(
        one,
        [&](CheckpointedRank& rank) {
          checkpoint::TrainState state = SomeState(0);
          state.data.fingerprint = "sha256:5678";
          rank.checkpoints().LoadOrInitialize(rank.ctx(), &state);
          EXPECT_EQ(state.data.fingerprint, "sha256:5678");
          EXPECT_EQ(state.data.next_sample, 5 * kRows);
        },
        options);
  };
  EXPECT_THAT(Refusal([&] { load({}); }), HasSubstr("the training data or its order"));
  load({.overrides = {"data"}});
}

TEST_F(CheckpointingFailuresTest, AnEmptyDirectoryStartsFresh) {
  OnRanks({2, 1, 0}, [&](CheckpointedRank& rank) {
    checkpoint::TrainState state = SomeState(0);
    EXPECT_THAT(rank.checkpoints().LoadOrInitialize(rank.ctx(), &state),
                HasSubstr("random weights"));
    EXPECT_EQ(state.step, 0);
  });
}

}  // namespace
}  // namespace sepia::trainer
