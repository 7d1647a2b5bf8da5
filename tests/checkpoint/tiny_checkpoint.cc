#include "tests/checkpoint/tiny_checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "checkpoint/import/hf_layout.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint::testing {

void FillTinyModel(config::ModelConfig* model) {
  model->set_vocab_size(16);
  model->set_hidden_size(8);
  model->set_num_layers(1);
  model->set_num_heads(2);
  model->set_intermediate_size(32);
  model->set_max_positions(16);
  model->set_rotary_pct(0.5);
  model->set_rotary_base(10000);
  model->set_layer_norm_eps(1e-5);
  model->set_activation(config::TANH_GELU);
  model->mutable_attention()->set_kind(config::AttentionConfig::SEP);
  model->mutable_attention()->set_window(4);
  model->mutable_attention()->set_num_initial(3);
  model->mutable_attention()->add_separator_ids(2);
  model->mutable_attention()->add_separator_ids(5);
}

float TinyValue(const std::string& name, Role role, int64_t i, int salt) {
  const std::string key = name + std::string(RoleName(role)) + std::to_string(salt);
  const uint32_t hash = Crc32c(std::as_bytes(std::span(key)));
  // 24 bits: exact. Never zero, so that a lost write shows.
  return static_cast<float>((hash + static_cast<uint32_t>(i) * 2654435761u) >> 8 | 1) * 0x1p-24f;
}

TrainState TinyTrainState(int64_t step) {
  TrainState state;
  state.step = step;
  state.applied_steps = step - 1;
  state.skipped_steps = 1;
  state.skipped_in_a_row = 1;
  state.consumed_samples = step * 8;
  state.consumed_tokens = step * 8 * 16;
  state.last_loss = 3.25 + static_cast<double>(step) / 7;
  state.seed = 0xfedcba9876543210u;
  state.loss_scaler = {true, 4096, 17, step - 1, 2};
  state.data = {"sha256:00ff", "NEOX_MAPS", 1234, step * 8, 16, 8};
  state.schedule = {"COSINE", 6e-4, 6e-5, 14.3, 1430, 1430};
  state.extra = std::string("\0opaque\xff", 8);
  return state;
}

TinyState::TinyState(int salt, bool with_moments) {
  config::ModelConfig model;
  FillTinyModel(&model);
  for (const HfTensor& tensor : HfTensors(model)) {
    for (const Role role : {Role::kMaster, Role::kExpAvg, Role::kExpAvgSq}) {
      if (role != Role::kMaster && !with_moments) continue;
      OwnedTensor values(DType::kFloat32, tensor.shape);
      for (int64_t i = 0; i < tensor.shape.num_elements(); ++i) {
        values.data<float>()[i] = TinyValue(tensor.name, role, i, salt);
      }
      entries_.push_back({tensor.name, role, std::move(values)});
    }
  }
}

std::vector<CheckpointTensor> TinyState::tensors() const {
  std::vector<CheckpointTensor> tensors;
  for (const Entry& entry : entries_) {
    const Shape shape = entry.values.view().shape();
    tensors.push_back({{entry.name, entry.values.view(), shape,
                        std::vector<int64_t>(static_cast<size_t>(shape.rank()), 0)},
                       entry.role,
                       {}});
  }
  return tensors;
}

std::string SaveTiny(CheckpointWriter* writer, int64_t step) {
  config::ModelConfig model;
  FillTinyModel(&model);
  const TinyState state(static_cast<int>(step));
  const std::vector<CheckpointTensor> tensors = state.tensors();
  const TrainState train = TinyTrainState(step);
  const Attachment tokenizer{"tokenizer.json", "{\"a stand-in\": 1}\n"};
  return writer->Save({.step = step,
                       .model = &model,
                       .tensors = tensors,
                       .train_state = &train,
                       .config_text = "seed: 7\n",
                       .attachments = std::span(&tokenizer, 1)});
}

::testing::AssertionResult HasTinyState(const ModelSource& source, int salt) {
  for (const SourceTensor& tensor : source.tensors()) {
    const OwnedTensor values(DType::kFloat32, tensor.shape);
    for (const Role role : {Role::kMaster, Role::kExpAvg, Role::kExpAvgSq}) {
      if (!source.Has(role)) continue;
      source.ReadTensor(tensor.name, values, role);
      for (int64_t i = 0; i < tensor.shape.num_elements(); ++i) {
        if (values.data<float>()[i] == TinyValue(tensor.name, role, i, salt)) continue;
        return ::testing::AssertionFailure()
               << tensor.name << " " << RoleName(role) << " element " << i;
      }
    }
  }
  return ::testing::AssertionSuccess();
}

void TinySourceTest::SetUp() {
  SetLogSink([this](LogLevel, std::string_view message) { log_.append(message); });
  CheckpointWriter writer({.dir = dir_.File("run"), .retention = {}, .before_stage = {}});
  SaveTiny(&writer, kSalt);
  tiny_ = OpenModelSource(dir_.File("run"));
}

void TinySourceTest::TearDown() { SetLogSink(nullptr); }

void FlipBit(const std::string& path, int64_t bit) {
  const int fd = open(path.c_str(), O_RDWR);
  CHECK(fd >= 0);
  unsigned char byte;
  CHECK(pread(fd, &byte, 1, bit / 8) == 1);
  byte = static_cast<unsigned char>(byte ^ (1 << (bit % 8)));
  CHECK(pwrite(fd, &byte, 1, bit / 8) == 1);
  close(fd);
}

}  // namespace sepia::checkpoint::testing
