#include "tests/trainer/checkpointed_ranks.h"

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/buffer.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "dist/thread_ranks.h"
#include "tests/model/model_under_test.h"

namespace sepia::trainer {
namespace {

using checkpoint::Role;

LoadedConfig Config(const Layout& layout, const std::string& root,
                    const std::vector<std::string>& more) {
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

}  // namespace

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

CheckpointedRank::CheckpointedRank(const Layout& layout, LoadedConfig config,
                                   std::unique_ptr<dist::Communicator> world,
                                   CheckpointingOptions options)
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

void CheckpointedRank::Fill() {
  ForEachState([](const StateTensor& tensor, Role role) {
    const uint32_t hash = NameHash(tensor.name, role);
    tensor.Fill([&](const TensorView& values) {
      ForEachElement(tensor, values,
                     [&](float& value, int64_t i) { value = Value(hash, role, i); });
    });
  });
  optimizer_.WeightsLoaded(ctx_);
}

int64_t CheckpointedRank::CountWrong() {
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

double CheckpointedRank::Loss() {
  const Batch batch = sepia::testing::CutRows(
      config_.settings.model,
      sepia::testing::RandomBatch(config_.settings.model, kRows, kLength, 5),
      kRows * mesh_.data().rank() / layout_.data, kRows * (mesh_.data().rank() + 1) / layout_.data);
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

void CheckpointedRank::ForEachState(const std::function<void(const StateTensor&, Role)>& fn) {
  for (const StateTensor& tensor : optimizer_.Masters()) fn(tensor, Role::kMaster);
  for (const StateTensor& tensor : optimizer_.FirstMoments()) fn(tensor, Role::kExpAvg);
  for (const StateTensor& tensor : optimizer_.SecondMoments()) fn(tensor, Role::kExpAvgSq);
}

void CheckpointingTest::SetUp() {
  SetLogSink([this](LogLevel level, std::string_view message) {
    const std::lock_guard lock(mutex_);
    log_ += fmt::format("{}\n", message);
    failed_saves_ += level == LogLevel::kWarn && message.starts_with("checkpoint not saved");
  });
}

void CheckpointingTest::TearDown() { SetLogSink(nullptr); }

void CheckpointingTest::OnRanks(const Layout& layout,
                                const std::function<void(CheckpointedRank&)>& body,
                                const CheckpointingOptions& options,
                                const std::vector<std::string>& more) {
  dist::RunThreadRanks(layout.ranks(), [&](std::unique_ptr<dist::Communicator> world) {
    CheckpointedRank rank(layout, Config(layout, root_, more), std::move(world), options);
    body(rank);
  });
}

void CheckpointingTest::Save(const Layout& layout, int64_t step) {
  OnRanks(layout, [&](CheckpointedRank& rank) {
    rank.Fill();
    rank.checkpoints().Save(SomeState(step));
    rank.checkpoints().Finish();
  });
}

checkpoint::TrainState CheckpointingTest::Load(const Layout& layout,
                                               const CheckpointingOptions& options,
                                               const std::vector<std::string>& more) {
  checkpoint::TrainState result;
  OnRanks(
      layout,
      [&](CheckpointedRank& rank) {
        checkpoint::TrainState state = SomeState(0);
        rank.checkpoints().LoadOrInitialize(rank.ctx(), &state);
        EXPECT_EQ(rank.CountWrong(), 0);
        const std::lock_guard lock(mutex_);
        result = state;
      },
      options, more);
  return result;
}

}  // namespace sepia::trainer
