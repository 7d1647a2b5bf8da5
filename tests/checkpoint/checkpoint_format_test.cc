// The native format: round trips, every kind of damage, files of old versions.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/crc32c.h"
#include "base/error.h"
#include "checkpoint/coverage.h"
#include "checkpoint/frame.h"
#include "checkpoint/manifest.h"
#include "checkpoint/manifest.pb.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_file.h"
#include "model/model_config.pb.h"
#include "tests/checkpoint/tiny_checkpoint.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::sepia::testing::TempDir;
using testing::FlipBit;
using ::testing::HasSubstr;
using testing::HasTinyState;
using testing::SaveTiny;

std::string SaveOne(const TempDir& dir, int64_t step = 7) {
  CheckpointWriter writer({.dir = dir.path(), .retention = {}, .before_stage = {}});
  return SaveTiny(&writer, step);
}

// Why a checkpoint cannot be used, looking at every byte; "" when it is whole.
std::string Fault(const std::string& path) {
  try {
    const std::vector<std::string> faults = CheckpointReader(path).VerifyDeep();
    return faults.empty() ? "" : faults.front();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    return error.what();
  }
}

void Overwrite(const std::string& path, std::string_view content) {
  File file = File::Create(path);
  file.Write(content);
  file.Close();
}

TEST(CheckpointFormatTest, RoundTripKeepsEverything) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  EXPECT_EQ(path, dir.path() + "/step_00000007");
  EXPECT_EQ(Fault(path), "");

  const CheckpointReader reader(path);
  EXPECT_EQ(reader.step(), 7);
  EXPECT_EQ(*reader.train_state(), testing::TinyTrainState(7));
  EXPECT_EQ(reader.config_text(), "seed: 7\n");
  EXPECT_EQ(ReadFile(reader.AttachmentPath("tokenizer.json")), "{\"a stand-in\": 1}\n");
  config::ModelConfig expected;
  config::ModelConfig model;
  testing::FillTinyModel(&expected);
  reader.FillModelConfig(&model);
  EXPECT_EQ(model.SerializeAsString(), expected.SerializeAsString());

  const auto source = OpenModelSource(path);
  EXPECT_EQ(source->format(), "Sepia checkpoint");
  EXPECT_EQ(source->tensors().size(), 16u);
  EXPECT_TRUE(source->Has(Role::kExpAvgSq));
  EXPECT_TRUE(HasTinyState(*source, 7));
  EXPECT_FALSE(HasTinyState(*source, 8));
}

TEST(CheckpointFormatTest, RunAndCheckpointDirectoriesStandForTheirNewestStep) {
  const TempDir run;
  CheckpointWriter writer({.dir = run.File("checkpoints"), .retention = {}, .before_stage = {}});
  SaveTiny(&writer, 9);
  const std::string newest = SaveTiny(&writer, 10);
  EXPECT_EQ(OpenModelSource(run.path())->path(), newest);
  EXPECT_EQ(OpenModelSource(run.File("checkpoints"))->path(), newest);
  EXPECT_EQ(OpenModelSource(newest)->path(), newest);
}

TEST(CheckpointFormatTest, CopiesAreCheckpointsToo) {
  const TempDir dir;
  const TempDir other;
  std::filesystem::copy(SaveOne(dir), other.File("best"), std::filesystem::copy_options::recursive);
  EXPECT_EQ(Fault(other.File("best")), "");
}

// Rows of 3 M floats and more than 8 MiB: chunks are cut inside rows as well.
TEST(CheckpointFormatTest, LargeTensorsAndRectanglesOfRanksReadBack) {
  const TempDir dir;
  const Shape shape{3, 2'500'000};
  std::vector<float> values(static_cast<size_t>(shape.num_elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 16'777'213);
  std::vector<BFloat16> halves = {BFloat16(1.5f), BFloat16(-2.0f), BFloat16(0.1f)};
  // The second tensor arrives as the rectangles of two ranks, cut along columns.
  std::vector<float> left = {1, 2, 5, 6};
  std::vector<float> right = {3, 4, 7, 8};
  std::vector<CheckpointTensor> tensors = {
      {{"large", TensorView::Of(std::span(values), shape), shape, {0, 0}}, Role::kMaster, {}},
      {{"split", TensorView::Of(std::span(right), {2, 2}), {2, 4}, {0, 2}}, Role::kMaster, {}},
      {{"split", TensorView::Of(std::span(left), {2, 2}), {2, 4}, {0, 0}}, Role::kMaster, {}},
      {{"half", TensorView::Of(std::span(halves), {3}), {3}, {0}}, Role::kWeight, {}},
      {{"scalar", TensorView::Of(std::span(left).first(1), Shape{}), Shape{}, {}},
       Role::kMaster,
       {}},
  };
  // A tensor whose data are asked for chunk by chunk.
  tensors.push_back({{"asked", TensorView(nullptr, DType::kFloat32, {5, 2}), {5, 2}, {0, 0}},
                     Role::kMaster,
                     [](const Rectangle& part, TensorView out) {
                       for (int64_t i = 0; i < out.num_elements(); ++i) {
                         out.data<float>()[i] = static_cast<float>(part.offset[0] * 2 + i);
                       }
                     }});
  config::ModelConfig model;
  testing::FillTinyModel(&model);
  CheckpointWriter writer({.dir = dir.path(), .retention = {}, .before_stage = {}});
  const std::string path = writer.Save({.step = 0,
                                        .model = &model,
                                        .tensors = tensors,
                                        .train_state = nullptr,
                                        .config_text = "",
                                        .attachments = {}});
  EXPECT_EQ(Fault(path), "");
  const CheckpointReader reader(path);
  EXPECT_EQ(reader.train_state(), nullptr);
  EXPECT_GE(reader.Get("large", Role::kMaster).chunks.size(), 6u);

  std::vector<float> back(values.size());
  reader.ReadTensor("large", Role::kMaster, TensorView::Of(std::span(back), shape));
  EXPECT_EQ(std::memcmp(back.data(), values.data(), values.size() * 4), 0);
  const Rectangle part{{1, 2'097'100}, {2, 120}};  // across a chunk's edge in both rows
  std::vector<float> some(240);
  reader.ReadPart("large", Role::kMaster, part, TensorView::Of(std::span(some), part.extent));
  for (size_t i = 0; i < some.size(); ++i) {
    EXPECT_EQ(some[i], values[(1 + i / 120) * 2'500'000 + 2'097'100 + i % 120]);
  }
  std::vector<float> joined(8);
  reader.ReadTensor("split", Role::kMaster, TensorView::Of(std::span(joined), {2, 4}));
  EXPECT_THAT(joined, ::testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  std::vector<float> widened(3);
  reader.ReadTensor("half", Role::kMaster, TensorView::Of(std::span(widened), {3}));
  EXPECT_THAT(widened, ::testing::ElementsAre(1.5f, -2.0f, 0.10009765625f));
  std::vector<float> asked(10);
  reader.ReadTensor("asked", Role::kMaster, TensorView::Of(std::span(asked), {5, 2}));
  EXPECT_THAT(asked, ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(CheckpointFormatTest, EveryBitFlipInMetadataIsDetected) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  for (const char* name : {"/MANIFEST.pb", "/COMMIT"}) {
    const std::string file = path + name;
    const int64_t bits = 8 * static_cast<int64_t>(std::filesystem::file_size(file));
    for (int64_t bit = 0; bit < bits; ++bit) {
      FlipBit(file, bit);
      EXPECT_THROW(ReadManifest(path), UserError) << file << " bit " << bit;
      FlipBit(file, bit);
    }
  }
  EXPECT_EQ(Fault(path), "");
}

TEST(CheckpointFormatTest, SampledBitFlipsInDataAreDetected) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  std::mt19937_64 random(1);
  for (const std::string& file : {path + "/" + ShardFileName(0, 1), path + "/tokenizer.json"}) {
    const auto bits = 8 * std::filesystem::file_size(file);
    const int flips = file.ends_with("json") ? 100 : 10'000;
    for (int i = 0; i < flips; ++i) {
      const auto bit = static_cast<int64_t>(random() % bits);
      FlipBit(file, bit);
      EXPECT_NE(Fault(path), "") << file << " bit " << bit;
      FlipBit(file, bit);
    }
  }
  EXPECT_EQ(Fault(path), "");
}

TEST(CheckpointFormatTest, DamagedTensorsAreNamedWithFileAndOffset) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  const CheckpointReader reader(path);
  const StoredTensor& tensor =
      reader.Get("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", Role::kExpAvg);
  const std::string shard = path + "/" + ShardFileName(0, 1);
  FlipBit(shard, (tensor.chunks[0].offset + 5) * 8);
  const OwnedTensor values(DType::kFloat32, tensor.shape);
  try {
    reader.ReadTensor(tensor.name, Role::kExpAvg, values);
    FAIL() << "damage went unnoticed";
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    EXPECT_THAT(error.what(), HasSubstr(shard));
    EXPECT_THAT(error.what(), HasSubstr(fmt::format("offset {}", tensor.chunks[0].offset)));
    EXPECT_THAT(error.what(), HasSubstr("exp_avg of tensor '" + tensor.name + "'"));
  }
  EXPECT_NO_THROW(reader.ReadTensor(tensor.name, Role::kMaster, values));
}

TEST(CheckpointFormatTest, EveryTruncationIsDetected) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  for (const std::string name : {"COMMIT", "MANIFEST.pb", "tokenizer.json", "shard"}) {
    const std::string file = path + "/" + (name == "shard" ? ShardFileName(0, 1) : name);
    const std::string whole = ReadFile(file);
    // All lengths; a long file loses its last bytes one by one, then steps of a prime.
    for (size_t length = whole.size(); length-- > 0;) {
      if (whole.size() - length > 300 && length % 251 != 0 && name == "shard") continue;
      std::filesystem::resize_file(file, length);
      EXPECT_THROW(CheckpointReader{path}, UserError) << name << " cut to " << length;
    }
    Overwrite(file, whole);
  }
  EXPECT_EQ(Fault(path), "");
}

TEST(CheckpointFormatTest, AppendedBytesAndMissingFilesAreDetected) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  for (const std::string name : {"COMMIT", "MANIFEST.pb", "tokenizer.json", "shard"}) {
    const std::string file = path + "/" + (name == "shard" ? ShardFileName(0, 1) : name);
    const std::string whole = ReadFile(file);
    Overwrite(file, whole + "x");
    EXPECT_THROW(CheckpointReader{path}, UserError) << name;
    std::filesystem::remove(file);
    EXPECT_THROW(CheckpointReader{path}, UserError) << name;
    Overwrite(file, whole);
  }
}

TEST(CheckpointFormatTest, FilesOfAnotherSaveAreDetected) {
  const TempDir dir;
  const TempDir other_dir;
  const std::string path = SaveOne(dir);
  const std::string other = SaveOne(other_dir);  // the same bytes but for its uuid
  for (const std::string& name :
       {std::string("COMMIT"), std::string("MANIFEST.pb"), ShardFileName(0, 1)}) {
    const std::string file = path + "/" + name;
    const std::string own = ReadFile(file);
    Overwrite(file, ReadFile(other + "/" + name));
    EXPECT_THROW(CheckpointReader{path}, UserError) << name;
    Overwrite(file, own);
  }
  EXPECT_EQ(Fault(path), "");
}

// Manifests that lie, sealed properly: only the checks of content stand between them and memory.
TEST(CheckpointFormatTest, LyingManifestsAreRefused) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  const Manifest good = ReadManifest(path);
  const std::pair<const char*, std::function<void(Manifest*)>> lies[] = {
      {"elements", [](Manifest* m) { m->tensors[0].chunks.clear(); }},
      {"overlap", [](Manifest* m) { m->tensors[0].chunks.push_back(m->tensors[0].chunks[0]); }},
      {"unknown shard", [](Manifest* m) { m->tensors[0].chunks[0].shard = 1; }},
      {"outside its shard", [](Manifest* m) { m->tensors[0].chunks[0].offset = int64_t{1} << 40; }},
      {"odd offset", [](Manifest* m) { m->tensors[0].chunks[0].offset += 1; }},
      {"out of range", [](Manifest* m) { m->tensors[0].chunks[0].offset = -4096; }},
      {"outside the tensor", [](Manifest* m) { m->tensors[0].chunks[0].part.offset[0] = 1; }},
      {"elements",
       [](Manifest* m) {
         m->tensors[0].shape = {1 << 20, 1 << 20};
       }},
      {"too large",
       [](Manifest* m) {
         m->tensors[0].shape = {int64_t{1} << 40, 1 << 20};
       }},
      {"twice", [](Manifest* m) { m->tensors.push_back(m->tensors[0]); }},
      {"no name", [](Manifest* m) { m->tensors[0].name = ""; }},
      {"plain file name", [](Manifest* m) { m->shards[0].file = "../x"; }},
      {"plain file name", [](Manifest* m) { m->attachments[0].file = "/etc/passwd"; }},
      {"smaller than its frame", [](Manifest* m) { m->shards[0].bytes = 10; }},
  };
  for (const auto& [message, lie] : lies) {
    Manifest bad = good;
    lie(&bad);
    const SealedManifest sealed = SealManifest(bad);
    Overwrite(path + "/MANIFEST.pb", sealed.manifest);
    Overwrite(path + "/COMMIT", sealed.commit);
    EXPECT_THAT(Fault(path), HasSubstr(message));
  }
}

// The stored message of a checkpoint changed by `edit` and sealed again.
void EditManifest(const std::string& path, const std::function<void(stored::Manifest*)>& edit) {
  stored::Manifest manifest;
  ASSERT_TRUE(manifest.ParseFromString(ReadFrame(path + "/MANIFEST.pb", kManifestMagic, 1 << 20)));
  edit(&manifest);
  const std::string frame = MakeFrame(kManifestMagic, manifest.SerializeAsString());
  stored::Commit commit;
  ASSERT_TRUE(commit.ParseFromString(ReadFrame(path + "/COMMIT", kCommitMagic, 1 << 20)));
  commit.set_manifest_bytes(frame.size());
  commit.set_manifest_crc32c(Crc32c(std::as_bytes(std::span(frame))));
  Overwrite(path + "/MANIFEST.pb", frame);
  Overwrite(path + "/COMMIT", MakeFrame(kCommitMagic, commit.SerializeAsString()));
}

TEST(CheckpointFormatTest, NewerVersionsAreTakenOrRefusedByRule) {
  const TempDir dir;
  const std::string path = SaveOne(dir);
  EditManifest(path, [](stored::Manifest* manifest) {
    manifest->set_format_minor(99);
    manifest->GetReflection()->MutableUnknownFields(manifest)->AddVarint(95, 1);
  });
  EXPECT_EQ(Fault(path), "");
  EditManifest(path, [](stored::Manifest* manifest) { manifest->add_required_features("zstd"); });
  EXPECT_THAT(Fault(path), HasSubstr("needs the feature 'zstd'; this checkpoint needs a newer"));
  EditManifest(path, [](stored::Manifest* manifest) {
    manifest->clear_required_features();
    manifest->set_format_major(2);
  });
  EXPECT_THAT(Fault(path), HasSubstr("format 2.99; this version reads 1.x"));
}

TEST(CoverageTest, TilesAreRecognised) {
  const auto why = [](const Shape& shape, const std::vector<Rectangle>& parts) {
    std::vector<const Rectangle*> pointers;
    for (const Rectangle& part : parts) pointers.push_back(&part);
    return WhyNotTiled(shape, pointers);
  };
  EXPECT_EQ(why({4, 6}, {{{0, 0}, {4, 6}}}), "");
  EXPECT_EQ(why({4, 6}, {{{2, 0}, {2, 6}}, {{0, 3}, {2, 3}}, {{0, 0}, {2, 3}}}), "");
  EXPECT_EQ(why(Shape{}, {{{}, Shape{}}}), "");
  EXPECT_EQ(why({0, 5}, {}), "");
  EXPECT_THAT(why({4, 6}, {{{0, 0}, {3, 6}}}), HasSubstr("18 of 24"));
  EXPECT_THAT(why({4, 6}, {{{0, 0}, {3, 6}}, {{2, 0}, {2, 6}}}), HasSubstr("overlap"));
  // The right volume in the wrong place.
  EXPECT_THAT(why({2, 2}, {{{0, 0}, {1, 2}}, {{0, 1}, {2, 1}}}), HasSubstr("overlap"));
  EXPECT_NE(why(Shape{}, {}), "");
}

// How tests/golden/checkpoint/v1 was made; never run again for the same version of the format.
TEST(CheckpointFormatTest, DISABLED_WriteGolden) {
  CheckpointWriter writer(
      {.dir = ::sepia::testing::GoldenPath("checkpoint/v1"), .retention = {}, .before_stage = {}});
  SaveTiny(&writer, 7);
}

// Written by the first version of the format: must load for ever.
TEST(CheckpointFormatTest, GoldenCheckpointLoads) {
  const std::string path = ::sepia::testing::GoldenPath("checkpoint/v1/step_00000007");
  ASSERT_TRUE(FileExists(path));
  EXPECT_EQ(Fault(path), "");
  const CheckpointReader reader(path);
  EXPECT_EQ(*reader.train_state(), testing::TinyTrainState(7));
  EXPECT_TRUE(HasTinyState(*OpenModelSource(path), 7));
}

}  // namespace
}  // namespace sepia::checkpoint
