// Files of torch.save against what was saved, bit for bit (fixtures/checkpoints/hf_legacy_bin).
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/model_source.h"
#include "tests/checkpoint/expect_tensors.h"
#include "tests/checkpoint/file_damage.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::sepia::testing::TempDir;
using testing::ExpectTensors;
using ::testing::HasSubstr;

constexpr const char* kFolder = "fixtures/checkpoints/hf_legacy_bin";

// The file as pytorch_model.bin beside the config of fixture t.
std::unique_ptr<ModelSource> OpenLoose(const TempDir& dir, const std::string& root,
                                       const std::string& file) {
  const auto replace = std::filesystem::copy_options::overwrite_existing;
  std::filesystem::copy_file(root + "/t/published/config.json", dir.File("config.json"), replace);
  std::filesystem::copy_file(root + "/t/" + file, dir.File("pytorch_model.bin"), replace);
  std::filesystem::permissions(dir.File("pytorch_model.bin"), std::filesystem::perms::owner_all);
  return OpenModelSource(dir.path());
}

TEST(TorchImportTest, PublishedFoldersLoadBitForBit) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  for (const char* folder : {"a/published", "a/published_sharded", "b/published", "t/published",
                             "t/published_sharded"}) {
    SCOPED_TRACE(folder);
    const auto source = OpenModelSource(root + "/" + folder);
    EXPECT_EQ(source->tensors()[0].dtype, DType::kFloat16);
    ExpectTensors(*source, root + "/" + std::string(1, folder[0]) + "/expected.safetensors");
  }
}

TEST(TorchImportTest, EveryVariantLoadsBitForBit) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  const std::pair<const char*, const char*> variants[] = {
      {"bool_mask.bin", "expected"},         {"nonzip.bin", "expected"},
      {"no_prefix.bin", "expected"},         {"parameters.bin", "expected"},
      {"with_metadata.bin", "expected"},     {"shared_storage.bin", "expected"},
      {"strided.bin", "expected"},           {"strided_nonzip.bin", "expected"},
      {"torch2_fp16.bin", "expected"},       {"torch2_fp16_lm_head_name.bin", "expected"},
      {"tied_storage.bin", "expected_tied"}, {"mixed_dtypes.bin", "expected_mixed_dtypes"},
  };
  const TempDir dir;
  for (const auto& [file, expected] : variants) {
    SCOPED_TRACE(file);
    // Elements outside the views are NaN: they must not be read, and so not be reported.
    std::string log;
    SetLogSink([&](LogLevel level, std::string_view message) {
      if (level == LogLevel::kWarn) log.append(message);
    });
    ExpectTensors(*OpenLoose(dir, root, file), root + "/t/" + expected + ".safetensors");
    SetLogSink(nullptr);
    EXPECT_EQ(log, "");
  }
}

TEST(TorchImportTest, PartsOfStridedTensorsEqualTheWhole) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  const TempDir dir;
  const auto source = OpenLoose(dir, root, "strided.bin");
  const SourceTensor& tensor = source->Get("gpt_neox.layers.1.attention.query_key_value.weight");
  std::vector<float> whole(static_cast<size_t>(tensor.shape.num_elements()));
  source->ReadTensor(tensor.name, TensorView::Of(std::span(whole), tensor.shape));
  for (const Rectangle& part : {Rectangle{{3, 5}, {7, 11}}, Rectangle{{95, 0}, {1, 32}},
                                Rectangle{{0, 31}, {96, 1}}, Rectangle{{2, 3}, {0, 4}}}) {
    std::vector<float> values(static_cast<size_t>(part.num_elements()));
    source->ReadPart(tensor.name, part, TensorView::Of(std::span(values), part.extent));
    for (size_t i = 0; i < values.size(); ++i) {
      const auto index = static_cast<int64_t>(i);
      const int64_t row = part.offset[0] + index / part.extent[1];
      const int64_t column = part.offset[1] + index % part.extent[1];
      EXPECT_EQ(values[i], whole[static_cast<size_t>(row * 32 + column)]);
    }
  }
}

TEST(TorchImportTest, NestedStateDictsAreNamed) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  const TempDir dir;
  try {
    OpenLoose(dir, root, "nested.bin");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'model' is a dict"));
    EXPECT_THAT(error.what(), HasSubstr("nested"));
  }
}

// One damaged bit is refused, or lies where nothing is stored (padding, local headers' unused
// fields, masks): then the tensors are unharmed. Without checksums (nonzip) only the former holds.
TEST(TorchImportTest, FlippedBitsNeverChangeAWeightUnnoticed) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  const TempDir dir;
  OpenLoose(dir, root, "torch2_fp16.bin");
  const std::string path = dir.File("pytorch_model.bin");
  int refused = 0;
  testing::ForEachFlippedBit(path, 200, [&] {
    try {
      const auto source = OpenModelSource(dir.path());
      ExpectTensors(*source, root + "/t/expected.safetensors");
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
      ++refused;
    }
  });
  EXPECT_GT(refused, 150);  // 88 % of the file are tensors
}

TEST(TorchImportTest, FlippedBitsAndTruncationsOfLegacyFilesNeverCrash) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  SetLogSink([](LogLevel, std::string_view) {});
  const TempDir dir;
  OpenLoose(dir, root, "nonzip.bin");
  const std::string path = dir.File("pytorch_model.bin");
  const auto load = [&] { testing::ReadEverything(*OpenModelSource(dir.path())); };
  testing::ForEachFlippedBit(path, 200, [&] {
    try {
      load();
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
    }
  });
  testing::ForEachTruncation(path, 200, [&] { EXPECT_THROW(load(), UserError); });
  SetLogSink(nullptr);
}

TEST(TorchImportTest, TruncatedZipsAreRefused) {
  SEPIA_SHARED_OR_SKIP(root, kFolder);
  const TempDir dir;
  OpenLoose(dir, root, "bool_mask.bin");
  testing::ForEachTruncation(dir.File("pytorch_model.bin"), 200,
                             [&] { EXPECT_THROW(OpenModelSource(dir.path()), UserError); });
}

}  // namespace
}  // namespace sepia::checkpoint
