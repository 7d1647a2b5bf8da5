// Checkpoints of several ranks: any layout reads what any other wrote, little more than its share
// of it; failures on one rank, damage, and configs that differ.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/buffer.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/step_directories.h"
#include "dist/thread_ranks.h"
#include "tests/checkpoint/faulty_calls.h"
#include "tests/model/model_under_test.h"
#include "tests/support/temp_dir.h"
#include "tests/trainer/rank_layout.h"
#include "trainer/checkpointing.h"

namespace sepia::trainer {
namespace {

using checkpoint::Role;
using sepia::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kRows = 8;
constexpr int64_t kLength = 24;

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

LoadedConfig Config(const Layout& layout, const std::string& root,
                    std::vector<std::string> more = {}) {
  std::vector<std::string> sets = {
      "model.vocab_size=96",
      "model.hidden_size=64",
      "model.num_layers=2",
      "model.num_heads=4",
      "model.max_positions=32",
      "model.attention={ kind: SEP window: 8 full_layers: 0 separator_ids: [3, 7, 11] }",
      fmt::format("data.sequence_length={}", kLength),
      fmt::format("parallel.tensor={}", layout.tensor),
      fmt::format("parallel.zero_stage={}", layout.zero),
      fmt::format("batch.global={}", kRows),
      "batch.micro=1",
      "threads=1",
      fmt::format("checkpoint.dir=\"{}\"", root)};
  sets.insert(sets.end(), more.begin(), more.end());
  return LoadConfigText("", "test", sets, {.ranks = layout.ranks(), .for_training = false});
}

// What element `index` of the whole tensor holds; a function of no layout. One in sixteen lies
// halfway between two bf16 numbers. Second moments are not negative.
float Value(uint32_t name_hash, Role role, int64_t index) {
  const uint32_t hash = (name_hash + static_cast<uint32_t>(index)) * 2654435761u;
  auto bits =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(hash) >> 8) * 0x1p-28f);
  if (index % 16 == 0) bits = (bits & 0xffff0000u) | 0x8000u;
  if (role == Role::kExpAvgSq) bits &= 0x7fffffffu;
  return std::bit_cast<float>(bits);
}

uint32_t NameHash(const std::string& name, Role role) {
  const std::string key = name + std::string(checkpoint::RoleName(role));
  return Crc32c(std::as_bytes(std::span(key)));
}

// fn(element of `values`, which are the tensor's, its index in the whole tensor).
template <typename Fn>
void ForEachElement(const NamedTensor& tensor, const TensorView& values, const Fn& fn) {
  const int last = tensor.global_shape.rank() - 1;
  const int64_t stride = tensor.global_shape[last];
  const int64_t width = tensor.view.dim(last);
  const int64_t first = last == 0 ? tensor.offset[0] : tensor.offset[0] * stride + tensor.offset[1];
  for (int64_t e = 0; e < tensor.view.num_elements(); ++e) {
    fn(values.data<float>()[e], first + e / width * stride + e % width);
  }
}

checkpoint::TrainState SomeState(int64_t step) {
  checkpoint::TrainState state;
  state.step = step;
  state.applied_steps = step - 1;
  state.skipped_steps = 1;
  state.consumed_samples = step * kRows;
  state.consumed_tokens = step * kRows * kLength;
  state.last_loss = 1.0 / 3;
  state.loss_scaler = {true, 4096, 17, step - 1, 2};
  state.data = {"sha256:1234", "LINEAR", 7, step * kRows, kLength, kRows};
  state.seed = 1234;
  return state;
}

// One rank's model, optimizer and checkpoints.
class Rank {
 public:
  Rank(const Layout& layout, LoadedConfig config, std::unique_ptr<dist::Communicator> world,
       CheckpointingOptions options = {})
      : layout_(layout),
        config_(std::move(config)),
        mesh_(std::move(world), layout.tensor),
        model_(config_.settings.model,
               {.compute_dtype = config_.settings.compute_dtype(),
                .batch_size = kRows,
                .seq_length = kLength},
               mesh_),
        ctx_{.num_threads = 1, .scratch = &model_.scratch()},
        optimizer_({.lr = 0, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1.0}, model_, mesh_,
                   layout.zero),
        checkpoints_(config_, std::move(options), optimizer_, mesh_.world()) {}

  AdamW& optimizer() { return optimizer_; }
  Checkpointing& checkpoints() { return checkpoints_; }
  kernels::Context& ctx() { return ctx_; }
  int rank() { return mesh_.world().rank(); }

  void Fill() {
    ForEachState([](const StateTensor& tensor, Role role) {
      const uint32_t hash = NameHash(tensor.name, role);
      tensor.Fill([&](const TensorView& values) {
        ForEachElement(tensor, values,
                       [&](float& value, int64_t i) { value = Value(hash, role, i); });
      });
    });
    optimizer_.WeightsLoaded(ctx_);
  }

  // Elements that this rank holds and that are not those of Fill.
  int64_t CountWrong() {
    int64_t wrong = 0;
    ForEachState([&](const StateTensor& tensor, Role role) {
      const uint32_t hash = NameHash(tensor.name, role);
      const OwnedTensor values(DType::kFloat32, tensor.view.shape());
      tensor.Read(0, values);
      ForEachElement(tensor, values, [&](float& value, int64_t i) {
        const float wanted = Value(hash, role, i);
        wrong += std::memcmp(&value, &wanted, sizeof(float)) != 0;
      });
    });
    return wrong;
  }

  double Loss() {
    const Batch batch = sepia::testing::CutRows(
        config_.settings.model,
        sepia::testing::RandomBatch(config_.settings.model, kRows, kLength, 5),
        kRows * mesh_.data().rank() / layout_.data,
        kRows * (mesh_.data().rank() + 1) / layout_.data);
    const OwnedTensor loss(DType::kFloat64, {1});
    const OwnedTensor scale(DType::kFloat32, {1});
    *scale.data<float>() = 1;
    model_.Forward(ctx_, batch);
    model_.Backward(ctx_, batch,
                    {.grad_scale = scale,
                     .loss_sum = loss,
                     .loss_mode = GradMode::kOverwrite,
                     .grad_mode = GradMode::kOverwrite});
    mesh_.data().AllReduce(ctx_, loss, dist::ReduceOp::kSum, "loss").Wait();
    return *loss.data<double>() / (kRows * kLength);
  }

 private:
  void ForEachState(const std::function<void(const StateTensor&, Role)>& fn) {
    for (const StateTensor& tensor : optimizer_.Masters()) fn(tensor, Role::kMaster);
    for (const StateTensor& tensor : optimizer_.FirstMoments()) fn(tensor, Role::kExpAvg);
    for (const StateTensor& tensor : optimizer_.SecondMoments()) fn(tensor, Role::kExpAvgSq);
  }

  Layout layout_;
  LoadedConfig config_;
  dist::Mesh mesh_;
  model::GptNeox model_;
  kernels::Context ctx_;
  AdamW optimizer_;
  Checkpointing checkpoints_;
};

class CheckpointingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([this](LogLevel level, std::string_view message) {
      const std::lock_guard lock(mutex_);
      log_ += fmt::format("{}\n", message);
      failed_saves_ += level == LogLevel::kWarn && message.starts_with("checkpoint not saved");
    });
  }
  void TearDown() override { SetLogSink(nullptr); }

  // Runs `body` on every rank.
  void OnRanks(const Layout& layout, const std::function<void(Rank&)>& body,
               const CheckpointingOptions& options = {},
               const std::vector<std::string>& more = {}) {
    dist::RunThreadRanks(layout.ranks(), [&](std::unique_ptr<dist::Communicator> world) {
      Rank rank(layout, Config(layout, root_, more), std::move(world), options);
      body(rank);
    });
  }

  void Save(const Layout& layout, int64_t step) {
    OnRanks(layout, [&](Rank& rank) {
      rank.Fill();
      rank.checkpoints().Save(SomeState(step));
      rank.checkpoints().Finish();
    });
  }

  // Resumes; the state that comes back.
  checkpoint::TrainState Load(const Layout& layout, const CheckpointingOptions& options = {},
                              const std::vector<std::string>& more = {}) {
    checkpoint::TrainState result;
    OnRanks(
        layout,
        [&](Rank& rank) {
          checkpoint::TrainState state = SomeState(0);
          rank.checkpoints().LoadOrInitialize(rank.ctx(), &state);
          EXPECT_EQ(rank.CountWrong(), 0);
          const std::lock_guard lock(mutex_);
          result = state;
        },
        options, more);
    return result;
  }

  std::string StepPath(int64_t step) const {
    return root_ + "/" + checkpoint::StepDirectoryName(step);
  }

  TempDir dir_;
  std::string root_ = dir_.File("checkpoints");
  std::mutex mutex_;
  std::string log_;
  int failed_saves_ = 0;
};

// Every layout of at most eight ranks writes, every layout reads: all elements bit for bit, the
// state that says which sample comes next, and the same loss but for the order of sums over 64
// channels and 192 tokens, some 1e-7 x sqrt(64) of values near 5.
TEST_F(CheckpointingTest, EveryLayoutReadsWhatEveryLayoutWrote) {
  constexpr double kTolerance = 1e-5;
  double loss = 0;
  int pairs = 0;
  for (const Layout& source : AllLayouts()) {
    root_ = dir_.File(source.Name());
    OnRanks(source, [&](Rank& rank) {
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
      OnRanks(target, [&](Rank& rank) {
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
          [&](Rank& rank) {
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
            [&](Rank& rank) {
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
              [&](Rank& rank) {
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
  OnRanks(target, [&](Rank& rank) {
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

// A write that fails on any one rank: no commit, everybody knows, the run goes on, and the next
// save is there.
TEST_F(CheckpointingTest, OneRanksFailureIsEverybodys) {
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
        OnRanks(layout, [&](Rank& rank) {
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

TEST_F(CheckpointingTest, TooManyFailuresInARowEndTheRunOnAllRanks) {
  const Layout layout{1, 2, 1};
  checkpoint::testing::FaultyCalls calls(
      {.call = 1, .for_ever = true, .error = EIO, .path = "shard-00001-"});
  const ScopedFileCalls scope(&calls);
  std::atomic<int> ended = 0;
  EXPECT_THROW(OnRanks(layout,
                       [&](Rank& rank) {
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

// What is saved is what was there when Save was called, however soon training goes on.
TEST_F(CheckpointingTest, BackgroundSavesHoldTheMomentOfTheCall) {
  const Layout layout{1, 2, 1};
  OnRanks(layout, [&](Rank& rank) {
    rank.Fill();
    rank.checkpoints().Save(SomeState(3));
    for (const NamedTensor& tensor : rank.optimizer().FirstMoments()) {
      std::fill_n(tensor.view.data<float>(), tensor.view.num_elements(), 7.0f);
    }
    rank.checkpoints().Finish();
  });
  EXPECT_EQ(Load(layout).step, 3);
}

std::string Damage(const std::string& step) {
  const std::string path = step + "/" + checkpoint::ShardFileName(0, 1);
  File file = File::OpenForAppend(path);
  file.Truncate(file.Size() / 2);
  return path;
}

TEST_F(CheckpointingTest, FallingBackIsExplicitAndSetsTheDamagedAside) {
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

TEST_F(CheckpointingTest, ADifferentRunIsRefusedFieldByFieldUnlessOverridden) {
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

TEST_F(CheckpointingTest, OtherDataNeedsItsOverride) {
  const Layout one;
  Save(one, 5);
  const auto load = [&](const CheckpointingOptions& options) {
    OnRanks(
        one,
        [&](Rank& rank) {
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

TEST_F(CheckpointingTest, AnEmptyDirectoryStartsFresh) {
  OnRanks({2, 1, 0}, [&](Rank& rank) {
    checkpoint::TrainState state = SomeState(0);
    EXPECT_THAT(rank.checkpoints().LoadOrInitialize(rank.ctx(), &state),
                HasSubstr("random weights"));
    EXPECT_EQ(state.step, 0);
  });
}

}  // namespace
}  // namespace sepia::trainer
