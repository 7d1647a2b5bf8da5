#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/buffer.h"
#include "base/error.h"
#include "checkpoint/import/hf_config.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "model/model_config.pb.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

constexpr const char* kModels = "fixtures/checkpoints/hf_safetensors";

std::vector<float> ReadAll(const ModelSource& source, const SourceTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.shape.num_elements()));
  source.ReadTensor(tensor.name, TensorView::Of(std::span(values), tensor.shape));
  return values;
}

// IEEE binary16 by its definition: an oracle independent of base/dtype.
float HalfToFloat(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -24)
                              : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

float Widen(DType dtype, const std::byte* bytes) {
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, bytes, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return dtype == DType::kFloat16 ? HalfToFloat(bits)
                                  : std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

TEST(HfImportTest, SingleFilesLoadBitForBit) {
  SEPIA_SHARED_OR_SKIP(root, kModels);
  for (const char* name : {"a/fp32", "a/bf16", "a/fp16", "b/fp32", "b/bf16", "b/fp16", "t/fp32",
                           "t/bf16", "t/fp16", "t/fp32_config4"}) {
    const auto source = OpenModelSource(root + "/" + name);
    const SafetensorsFile file(root + "/" + name + "/model.safetensors");
    ASSERT_EQ(source->tensors().size(), file.entries().size()) << name;
    for (const SourceTensor& tensor : source->tensors()) {
      const SafetensorsEntry& entry = file.Get(tensor.name);
      ASSERT_EQ(tensor.shape, entry.shape);
      EXPECT_EQ(tensor.dtype, entry.dtype);
      const std::vector<float> values = ReadAll(*source, tensor);
      for (size_t i = 0; i < values.size(); ++i) {
        const float expected = Widen(
            entry.dtype, entry.bytes.data() + i * static_cast<size_t>(DTypeSize(entry.dtype)));
        ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected))
            << name << " " << tensor.name << " element " << i;
      }
    }
  }
}

TEST(HfImportTest, ShardedFoldersEqualTheSingleFile) {
  SEPIA_SHARED_OR_SKIP(root, kModels);
  for (const std::string model : {"a", "t"}) {
    const auto single = OpenModelSource(root + "/" + model + "/fp32");
    const auto sharded = OpenModelSource(root + "/" + model + "/fp32_sharded");
    ASSERT_EQ(single->tensors().size(), sharded->tensors().size());
    for (const SourceTensor& tensor : single->tensors()) {
      EXPECT_EQ(ReadAll(*single, tensor), ReadAll(*sharded, sharded->Get(tensor.name)));
    }
  }
}

TEST(HfImportTest, ConfigIsReadInEverySpelling) {
  SEPIA_SHARED_OR_SKIP(root, kModels);
  config::ModelConfig five;
  ReadHfConfig(root + "/t/fp32/config.json", &five);
  EXPECT_EQ(five.hidden_size(), 32);
  EXPECT_EQ(five.num_layers(), 2);
  EXPECT_EQ(five.num_heads(), 4);
  EXPECT_EQ(five.vocab_size(), 128);
  EXPECT_EQ(five.intermediate_size(), 128);
  EXPECT_EQ(five.max_positions(), 32);
  EXPECT_EQ(five.rotary_pct(), 0.25);
  EXPECT_EQ(five.rotary_base(), 10000);
  EXPECT_EQ(five.layer_norm_eps(), 1e-5);
  EXPECT_EQ(five.activation(), config::ERF_GELU);
  EXPECT_TRUE(five.parallel_residual());
  EXPECT_FALSE(five.tie_embeddings());
  EXPECT_FALSE(five.has_attention());
  for (const char* other : {"fp32_config4/config.json", "fp16/config.json",
                            "fp16/config.published.json", "bf16/config.json"}) {
    config::ModelConfig config;
    ReadHfConfig(root + "/t/" + other, &config);
    EXPECT_EQ(config.SerializeAsString(), five.SerializeAsString()) << other;
  }
  config::ModelConfig half_rotary;
  ReadHfConfig(root + "/b/fp32/config.json", &half_rotary);
  EXPECT_EQ(half_rotary.rotary_pct(), 0.5);
}

TEST(HfImportTest, PartsEqualTheWhole) {
  SEPIA_SHARED_OR_SKIP(root, kModels);
  const auto source = OpenModelSource(root + "/t/bf16");
  const SourceTensor& tensor = source->Get("gpt_neox.layers.1.attention.query_key_value.weight");
  const std::vector<float> whole = ReadAll(*source, tensor);
  for (const Rectangle& part : {Rectangle{{3, 5}, {7, 11}}, Rectangle{{95, 0}, {1, 32}},
                                Rectangle{{0, 31}, {96, 1}}, Rectangle{{2, 3}, {0, 4}}}) {
    const OwnedTensor values(DType::kFloat32, part.extent);
    source->ReadPart(tensor.name, part, values);
    for (int64_t row = 0; row < part.extent[0]; ++row) {
      for (int64_t column = 0; column < part.extent[1]; ++column) {
        const auto place =
            static_cast<size_t>((part.offset[0] + row) * tensor.shape[1] + part.offset[1] + column);
        EXPECT_EQ(values.data<float>()[row * part.extent[1] + column], whole[place]);
      }
    }
  }
}

// A folder made of fixture t with its tensors renamed.
class RenamedFolder {
 public:
  template <typename Rename>
  RenamedFolder(const std::string& root, Rename rename)
      : file_(root + "/t/fp32/model.safetensors") {
    std::filesystem::copy(root + "/t/fp32/config.json", dir_.File("config.json"));
    for (const SafetensorsEntry& entry : file_.entries()) {
      values_.emplace_back(entry.dtype, entry.shape);
      file_.CopyTo(entry, values_.back());
      tensors_.push_back({rename(entry.name), values_.back()});
    }
  }

  void AddBuffer(const std::string& name, DType dtype, const Shape& shape) {
    values_.emplace_back(dtype, shape);
    tensors_.push_back({name, values_.back()});
  }

  const std::string& Write() {
    WriteSafetensors(dir_.File("model.safetensors"), tensors_);
    return dir_.path();
  }

 private:
  testing::TempDir dir_;
  SafetensorsFile file_;
  std::vector<OwnedTensor> values_;
  std::vector<SafetensorsTensor> tensors_;
};

TEST(HfImportTest, AcceptsAliasesAndSkipsBuffers) {
  SEPIA_SHARED_OR_SKIP(root, kModels);
  const auto plain = OpenModelSource(root + "/t/fp32");
  RenamedFolder renamed(root, [](std::string name) {
    if (name == "embed_out.weight") return std::string("lm_head.weight");
    return name.substr(std::strlen("gpt_neox."));
  });
  renamed.AddBuffer("layers.0.attention.bias", DType::kBool, {1, 1, 32, 32});
  renamed.AddBuffer("layers.0.attention.masked_bias", DType::kFloat32, Shape{});
  renamed.AddBuffer("layers.1.attention.rotary_emb.inv_freq", DType::kFloat16, {1});
  renamed.AddBuffer("rotary_emb.inv_freq", DType::kFloat16, {1});
  const auto source = OpenModelSource(renamed.Write());
  ASSERT_EQ(source->tensors().size(), plain->tensors().size());
  for (const SourceTensor& tensor : plain->tensors()) {
    EXPECT_EQ(ReadAll(*plain, tensor), ReadAll(*source, source->Get(tensor.name)));
  }
}

TEST(HfImportTest, HeadUnderBothNamesIsRefused) {
  SEPIA_SHARED_OR_SKIP(root, kModels);
  RenamedFolder renamed(root, [](std::string name) { return name; });
  renamed.AddBuffer("lm_head.weight", DType::kFloat32, {128, 32});
  EXPECT_THROW(OpenModelSource(renamed.Write()), UserError);
}

TEST(HfImportTest, PathsThatAreNoModelSayWhatIsExpected) {
  const testing::TempDir dir;
  EXPECT_THROW(OpenModelSource(dir.path()), UserError);
  EXPECT_THROW(OpenModelSource(dir.File("nothing")), UserError);
}

}  // namespace
}  // namespace sepia::checkpoint
