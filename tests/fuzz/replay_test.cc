// The fuzz targets without libFuzzer, in every run of the tests: all seeds and past findings, and
// mutations of them that are the same every time. scripts/fuzz searches; this keeps what is known.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::fuzzing {

using Target = int (*)(const uint8_t* data, size_t size);

#define SEPIA_FUZZ_FORMATS(each)                                                                 \
  each(checkpoint) each(config_text) each(gguf) each(hf_config) each(indexed_dataset) each(neox) \
      each(npy) each(safetensors) each(tokenizer_json) each(torch_file)

// CMake gives each target's entry point this name.
#define SEPIA_DECLARE(format) extern "C" int SepiaFuzz_##format(const uint8_t* data, size_t size);
SEPIA_FUZZ_FORMATS(SEPIA_DECLARE)

namespace {

namespace fs = std::filesystem;

struct Format {
  std::string name;
  Target target;
};

#define SEPIA_ENTRY(format) {#format, &SepiaFuzz_##format},
const Format kFormats[] = {SEPIA_FUZZ_FORMATS(SEPIA_ENTRY)};

// Folders and files with inputs of a format, besides tests/fuzz/seeds/FORMAT.
std::vector<std::string> OtherSeeds(const std::string& format) {
  using sepia::testing::GoldenPath;
  if (format == "config_text") return {sepia::testing::SourcePath("configs")};
  if (format == "hf_config") {
    return {GoldenPath("checkpoint/bad/config"), GoldenPath("checkpoint/bad/good/config.json")};
  }
  if (format == "safetensors") {
    return {GoldenPath("checkpoint/bad/safetensors"),
            GoldenPath("checkpoint/bad/good/model.safetensors")};
  }
  if (format == "tokenizer_json") return {GoldenPath("tokenizer/tokenizer.json")};
  return {};
}

std::vector<std::string> SeedFiles(const std::string& format) {
  std::vector<std::string> places = OtherSeeds(format);
  places.push_back(sepia::testing::SourcePath("tests/fuzz/seeds/" + format));
  std::vector<std::string> files;
  for (const std::string& place : places) {
    if (!fs::is_directory(place)) {
      if (fs::exists(place)) files.push_back(place);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(place)) {
      if (entry.path().extension() != ".md") files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string Mutated(std::string bytes, std::mt19937* random) {
  if (bytes.empty()) return bytes;
  const auto below = [&](size_t bound) { return (*random)() % bound; };
  constexpr uint8_t kTelling[] = {0, 1, 0x7f, 0x80, 0xff};
  for (size_t n = 1 + below(3); n > 0; --n) {
    const size_t at = below(bytes.size());
    const size_t count = 1 + below(std::min<size_t>(bytes.size() - at, 16));
    switch (below(5)) {
      case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8))); break;
      case 1:
        std::fill_n(bytes.begin() + static_cast<int64_t>(at), count,
                    static_cast<char>(kTelling[below(5)]));
        break;
      case 2: bytes.insert(at, bytes.substr(at, count)); break;
      case 3:
        if (bytes.size() > count) bytes.erase(at, count);
        break;
      default: bytes.resize(at + 1); break;
    }
  }
  return bytes;
}

class FuzzReplayTest : public ::testing::TestWithParam<Format> {};

// Anything but acceptance and a UserError fails here, or under the sanitizers.
TEST_P(FuzzReplayTest, SeedsAndTheirMutationsAreReadOrRefused) {
  constexpr int kMutations = 4000;  // of a format
  constexpr size_t kMostBytes = 1 << 16;
  const std::vector<std::string> files = SeedFiles(GetParam().name);
  ASSERT_FALSE(files.empty());
  std::mt19937 random(1);
  const auto run = [&](const std::string& bytes) {
    GetParam().target(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  };
  int inputs = 0;
  for (const std::string& file : files) {
    SCOPED_TRACE(file);
    const std::string seed = ReadFile(file);
    ASSERT_NO_THROW(run(seed));
    ++inputs;
    if (seed.size() > kMostBytes) continue;
    const int share = std::max(1, kMutations / static_cast<int>(files.size()));
    for (int i = 0; i < share; ++i, ++inputs) {
      const std::string input = Mutated(seed, &random);
      ASSERT_NO_THROW(run(input)) << "mutation " << i;
    }
  }
  std::printf("%s: %zu seeds, %d inputs\n", GetParam().name.c_str(), files.size(), inputs);
}

INSTANTIATE_TEST_SUITE_P(Formats, FuzzReplayTest, ::testing::ValuesIn(kFormats),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sepia::fuzzing
