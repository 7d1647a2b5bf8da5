// BuildDatasets, the cache of index maps, LINEAR order, fingerprints.
#include "data/dataset.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "data/data_config.pb.h"
#include "data/dataset_digest.h"
#include "data/index_map_cache.h"
#include "tests/data/data_fixtures.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::data {
namespace {

using sepia::testing::TempDir;
using sepia::testing::ToyDocuments;
using sepia::testing::WriteDataset;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<int32_t> SampleOf(const Dataset& dataset, int64_t k) {
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.seq_length()) + 1);
  dataset.Sample(k, tokens);
  return tokens;
}

config::DataConfig TrainOn(const std::string& prefix, config::DataConfig::Order order) {
  config::DataConfig config;
  config.add_train()->set_prefix(prefix);
  config.set_order(order);
  return config;
}

class ToyDataset : public ::testing::Test {
 protected:
  ToyDataset() {
    std::filesystem::create_directory(dir_.File("data"));
    prefix_ = WriteDataset(dir_.File("data/toy"), ToyDocuments());
    SetLogSink([](LogLevel, std::string_view) {});
  }
  ~ToyDataset() override { SetLogSink(nullptr); }

  static constexpr DatasetOptions kOptions{.train_samples = 12, .seq_length = 4};

  TempDir dir_;
  std::string prefix_;
};

TEST_F(ToyDataset, LinearCutsTheStream) {
  const auto train = BuildDatasets(TrainOn(prefix_, config::DataConfig::LINEAR), kOptions).train;
  EXPECT_EQ(train->length(), 8);  // 40 tokens
  EXPECT_THAT(SampleOf(*train, 0), ElementsAre(100, 101, 102, 103, 104));
  EXPECT_THAT(SampleOf(*train, 1), ElementsAre(200, 201, 202, 300, 301));
  EXPECT_EQ(SampleOf(*train, 9), SampleOf(*train, 1));
  EXPECT_EQ(train->Place(1, 3).sequence, 2);
}

TEST_F(ToyDataset, LinearSplits) {
  config::DataConfig config;
  config.add_source()->set_prefix(prefix_);
  config.set_split("5,3,0");
  config.set_order(config::DataConfig::LINEAR);
  DatasetOptions options = kOptions;
  options.valid_samples = 3;
  options.test_samples = 3;
  const Datasets datasets = BuildDatasets(config, options);
  EXPECT_EQ(datasets.train->length(), 5);  // 25 tokens of documents 0 to 4
  EXPECT_EQ(SampleOf(*datasets.valid, 0)[0], 600);
  EXPECT_EQ(datasets.test, nullptr);
}

TEST_F(ToyDataset, MapsLieBesideTheDataUnderNeoxNames) {
  BuildDatasets(TrainOn(prefix_, config::DataConfig::NEOX_MAPS), kOptions);
  EXPECT_THAT(FilesIn(dir_.File("data")),
              ElementsAre("toy.bin", "toy.idx", "toy_train_0_indexmap_13ns_4sl_1234s_doc_idx.npy",
                          "toy_train_0_indexmap_13ns_4sl_1234s_origin.txt",
                          "toy_train_0_indexmap_13ns_4sl_1234s_sample_idx.npy",
                          "toy_train_0_indexmap_13ns_4sl_1234s_shuffle_idx.npy"));
}

TEST_F(ToyDataset, CacheDirIsUsedAlone) {
  config::DataConfig config = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  config.set_cache_dir(dir_.File("a/b"));
  BuildDatasets(config, kOptions);
  EXPECT_EQ(FilesIn(dir_.File("a/b")).size(), 4u);
  EXPECT_EQ(FilesIn(dir_.File("data")).size(), 2u);
}

TEST_F(ToyDataset, MapsOfOlderDataAreBuiltAgain) {
  const config::DataConfig config = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  BuildDatasets(config, kOptions);
  auto documents = ToyDocuments();
  std::reverse(documents.begin(), documents.end());
  WriteDataset(prefix_, documents);
  const auto train = BuildDatasets(config, kOptions).train;
  for (int64_t k = 0; k < train->length(); ++k) SampleOf(*train, k);
}

TEST_F(ToyDataset, OwnDamagedMapsAreBuiltAgain) {
  const config::DataConfig config = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  const auto expected = SampleOf(*BuildDatasets(config, kOptions).train, 3);
  const std::string path = dir_.File("data/toy_train_0_indexmap_13ns_4sl_1234s_shuffle_idx.npy");
  sepia::testing::ReplaceFile(path, ReadFile(path).substr(0, 140));
  EXPECT_EQ(SampleOf(*BuildDatasets(config, kOptions).train, 3), expected);
}

TEST_F(ToyDataset, ForeignMapsThatDoNotFitAreRefused) {
  const config::DataConfig config = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  BuildDatasets(config, kOptions);
  const std::string stem = dir_.File("data/toy_train_0_indexmap_13ns_4sl_1234s");
  std::filesystem::remove(stem + "_origin.txt");
  BuildDatasets(config, kOptions);
  WriteDataset(prefix_, {{1, 2, 3, 4, 5, 6}});
  EXPECT_THAT(ErrorOf([&] { BuildDatasets(config, kOptions); }), HasSubstr("another dataset"));
}

// Without root's right to write everywhere, for as long as it lives.
class OrdinaryUser {
 public:
  OrdinaryUser() {
    if (geteuid() == 0) {
      EXPECT_EQ(seteuid(65534), 0);
    }
  }
  ~OrdinaryUser() { EXPECT_EQ(seteuid(getuid()), 0); }
};

TEST_F(ToyDataset, ReadOnlyFolderFallsBack) {
  std::filesystem::create_directory(dir_.File("run"));
  ASSERT_EQ(chmod(dir_.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(dir_.File("run").c_str(), 0777), 0);
  ASSERT_EQ(chmod(dir_.File("data").c_str(), 0555), 0);
  const config::DataConfig config = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  {
    const OrdinaryUser user;
    DatasetOptions options = kOptions;
    options.fallback_cache_dir = dir_.File("run");
    const auto in_run_dir = SampleOf(*BuildDatasets(config, options).train, 2);
    const auto temporary = SampleOf(*BuildDatasets(config, kOptions).train, 2);
    EXPECT_EQ(in_run_dir, temporary);
  }
  EXPECT_EQ(FilesIn(dir_.File("run")).size(), 4u);
  EXPECT_EQ(FilesIn(dir_.File("data")).size(), 2u);
  ASSERT_EQ(chmod(dir_.File("data").c_str(), 0755), 0);
}

// Eight processes and as many threads start at once; one builds, all read the same.
TEST_F(ToyDataset, ManyProcessesBuildOnce) {
  const config::DataConfig config = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int built = 0;
      SetLogSink([&built](LogLevel, std::string_view text) {
        built += text.find("building") != std::string_view::npos;
      });
      try {
        BuildDatasets(config, kOptions);
      } catch (...) {
        _exit(100);
      }
      _exit(built);
    }
    children.push_back(child);
  }
  int builders = 0;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status));
    builders += WEXITSTATUS(status);
  }
  EXPECT_EQ(builders, 1);
  EXPECT_EQ(FilesIn(dir_.File("data")).size(), 6u) << "no lock or temporary file is left";
}

TEST_F(ToyDataset, ContradictionsAreRefused) {
  config::DataConfig both = TrainOn(prefix_, config::DataConfig::LINEAR);
  both.add_source()->set_prefix(prefix_);
  EXPECT_THAT(ErrorOf([&] { BuildDatasets(both, kOptions); }), HasSubstr("not both"));

  config::DataConfig weights = TrainOn(prefix_, config::DataConfig::LINEAR);
  weights.mutable_train(0)->set_weight(-1);
  EXPECT_THAT(ErrorOf([&] { BuildDatasets(weights, kOptions); }), HasSubstr("weight"));
  weights.mutable_train(0)->set_weight(0);
  EXPECT_THAT(ErrorOf([&] { BuildDatasets(weights, kOptions); }), HasSubstr("weights"));

  config::DataConfig seed = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  seed.set_seed(-1);
  EXPECT_THAT(ErrorOf([&] { BuildDatasets(seed, kOptions); }), HasSubstr("seed"));

  config::DataConfig split;
  split.add_source()->set_prefix(prefix_);
  split.set_split("0,50,50");
  DatasetOptions options = kOptions;
  WriteDataset(prefix_, {{1, 2}, {3, 4}, {5, 6}});
  EXPECT_THAT(ErrorOf([&] { BuildDatasets(split, options); }), HasSubstr("-1 documents"));

  options.seq_length = 1000;
  EXPECT_THAT(
      ErrorOf([&] { BuildDatasets(TrainOn(prefix_, config::DataConfig::LINEAR), options); }),
      HasSubstr("do not fill one sample"));
}

TEST_F(ToyDataset, FingerprintFollowsOrderAndContent) {
  const config::DataConfig neox = TrainOn(prefix_, config::DataConfig::NEOX_MAPS);
  const auto fingerprint = [&](const config::DataConfig& config, DatasetOptions options) {
    return BuildDatasets(config, options).train->Fingerprint();
  };
  const std::string first = fingerprint(neox, kOptions);
  EXPECT_EQ(first.size(), 64u);
  DatasetOptions more = kOptions;
  more.train_samples = 13;  // as many epochs: the same order
  EXPECT_EQ(fingerprint(neox, more), first);
  more.train_samples = 30;
  EXPECT_NE(fingerprint(neox, more), first);
  DatasetOptions seed = kOptions;
  seed.seed = 1;
  EXPECT_NE(fingerprint(neox, seed), first);
  EXPECT_NE(fingerprint(TrainOn(prefix_, config::DataConfig::LINEAR), kOptions), first);

  auto documents = ToyDocuments();
  documents[4][2] ^= 1;
  WriteDataset(prefix_, documents);
  EXPECT_NE(fingerprint(neox, kOptions), first);
}

// The data of the training curves: 1,757 documents of exactly T + 1 tokens.
TEST(LinearDataset, PreShuffledItems) {
  SEPIA_SHARED_OR_SKIP(curves, "fixtures/curves");
  const auto train = BuildDatasets(TrainOn(curves + "/data", config::DataConfig::LINEAR),
                                   {.train_samples = 1, .seq_length = 256})
                         .train;
  EXPECT_EQ(train->length(), 1757);
  const IndexedDataset dataset(curves + "/data");
  std::vector<int32_t> document(257);
  for (const int64_t k : {0, 1, 1756}) {
    dataset.Read(k, 0, document);
    EXPECT_EQ(SampleOf(*train, k), document);
    EXPECT_EQ(train->Place(k, 256).sequence, k);
  }
}

TEST(DatasetDigest, SeesEveryByteOfASmallDataset) {
  TempDir dir;
  std::vector<int32_t> tokens(1000);
  std::vector<std::string> digests;
  for (const size_t changed : {0, 1, 500, 998, 999}) {
    std::vector<int32_t> other = tokens;
    other[changed] = 1;
    digests.push_back(DatasetDigest(IndexedDataset(WriteDataset(dir.File("x"), {other}))));
  }
  std::sort(digests.begin(), digests.end());
  EXPECT_EQ(std::unique(digests.begin(), digests.end()), digests.end());
}

}  // namespace
}  // namespace sepia::data
