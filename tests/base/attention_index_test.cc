// The packed form of the attention rule, against the rule itself, the masks of the SepLLM authors'
// own code, and the masks with which the reference models were computed.
#include "base/attention_index.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/philox.h"
#include "checkpoint/safetensors.h"
#include "tests/oracle/attention.h"
#include "tests/support/shared_fixtures.h"

namespace sepia {
namespace {

using ::sepia::testing::AttentionProblem;

// `. , ? ! ; : space tab newline` of the Pythia tokenizer.
const std::vector<int32_t> kSeparators = {15, 13, 32, 2, 28, 27, 209, 186, 187};

// mask[i * T + j] of one row as a kernel with this window sees it: the band and the packed keys. A
// pair taken twice counts twice.
std::vector<uint8_t> PackedMask(const AttentionIndex& index, int64_t row, int64_t window) {
  const int64_t seq_length = index.seq_length();
  std::vector<uint8_t> mask(static_cast<size_t>(seq_length * seq_length));
  for (int64_t i = 0; i < seq_length; ++i) {
    uint8_t* line = mask.data() + i * seq_length;
    for (int64_t j = std::max<int64_t>(0, i - window + 1); j <= i; ++j) ++line[j];
    const int32_t far = i >= window ? index.count(row)[static_cast<size_t>(i - window)] : 0;
    for (const int32_t position : index.positions(row).first(static_cast<size_t>(far))) {
      ++line[position];
    }
  }
  return mask;
}

AttentionIndexSpec SepSpec(int32_t num_initial) {
  return {AttentionKind::kSep, num_initial, 0, kSeparators};
}

TEST(AttentionIndexTest, EveryPairOnceAsTheRuleSays) {
  const PhiloxStream random(1, "tokens");
  for (const int64_t seq_length : {1, 2, 7, 40}) {
    for (const AttentionKind kind :
         {AttentionKind::kSep, AttentionKind::kStreaming, AttentionKind::kFixedStride}) {
      for (const int32_t num_initial : {0, 1, 3, 50}) {
        AttentionProblem problem = {
            .batch_size = 3,
            .seq_length = seq_length,
            .num_heads = 1,
            .head_dim = 1,
            .spec = {kind, num_initial, kind == AttentionKind::kFixedStride ? 3 : 0, {4, 9}},
            .window = 1,
            .tokens = std::vector<int32_t>(static_cast<size_t>(3 * seq_length)),
            .qkv = {}};
        for (size_t i = 0; i < problem.tokens.size(); ++i) {
          problem.tokens[i] = static_cast<int32_t>(random.Bits(i) % 10);
        }
        const AttentionIndex index(problem.tokens, 3, seq_length, problem.spec);
        for (const int64_t window : {int64_t{1}, int64_t{2}, int64_t{5}, seq_length, int64_t{99}}) {
          problem.window = window;
          EXPECT_EQ(index.VisiblePairs(window), problem.VisiblePairs());
          for (int64_t row = 0; row < 3; ++row) {
            const std::vector<uint8_t> mask = PackedMask(index, row, window);
            for (int64_t i = 0; i < seq_length; ++i) {
              for (int64_t j = 0; j < seq_length; ++j) {
                ASSERT_EQ(mask[static_cast<size_t>(i * seq_length + j)],
                          problem.Sees(row, i, j) ? 1 : 0)
                    << "row " << row << " i " << i << " j " << j << " window " << window;
              }
            }
          }
        }
      }
    }
  }
}

void ExpectEqual(const AttentionIndex& index, const AttentionIndex& expected) {
  const auto copy = [](std::span<const int32_t> from) {
    return std::vector<int32_t>(from.begin(), from.end());
  };
  EXPECT_EQ(index.batch_size(), expected.batch_size());
  ASSERT_EQ(index.seq_length(), expected.seq_length());
  EXPECT_EQ(index.max_packed(), expected.max_packed());
  EXPECT_EQ(copy(index.positions(0)), copy(expected.positions(0)));
  EXPECT_EQ(copy(index.count(0)), copy(expected.count(0)));
  EXPECT_EQ(copy(index.inverse(0)), copy(expected.inverse(0)));
}

// Nothing that was there moves, so that no step can cost more than its own tokens.
TEST(AttentionIndexTest, GrowsToTheIndexOfTheWhole) {
  constexpr size_t kLength = 60;
  const PhiloxStream random(2, "tokens");
  std::vector<int32_t> tokens(kLength);
  for (size_t i = 0; i < kLength; ++i) tokens[i] = static_cast<int32_t>(random.Bits(i) % 10);
  for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kSep,
                                   AttentionKind::kStreaming, AttentionKind::kFixedStride}) {
    const AttentionIndexSpec spec = {kind, 3, kind == AttentionKind::kFixedStride ? 7 : 0, {2, 5}};
    for (const size_t piece : {size_t{1}, size_t{4}, size_t{25}, kLength}) {
      SCOPED_TRACE(fmt::format("kind {} piece {}", static_cast<int>(kind), piece));
      GrowingAttentionIndex growing(spec, kLength);
      ExpectEqual(growing.index(), AttentionIndex(std::vector<int32_t>(), 1, 0, spec));
      const int32_t* counts = nullptr;
      const int32_t* positions = nullptr;
      for (size_t begin = 0; begin < kLength; begin += piece) {
        const size_t end = std::min(kLength, begin + piece);
        growing.Append(std::span(tokens).subspan(begin, end - begin));
        const AttentionIndex& index = growing.index();
        ExpectEqual(index, AttentionIndex(std::span(tokens).first(end), 1,
                                          static_cast<int64_t>(end), spec));
        if (begin == 0) {
          counts = index.count(0).data();
          positions = index.positions(0).data();
        }
        EXPECT_EQ(index.count(0).data(), counts);
        EXPECT_EQ(index.positions(0).data(), positions);
      }
    }
  }
}

TEST(AttentionIndexTest, InverseAndCountFitThePositions) {
  const std::vector<int32_t> tokens = {5, 13, 5, 5, 15, 13, 5, 32,  // separators 1 4 5 7
                                       5, 5,  5, 5, 5,  5,  5, 5};  // none
  const AttentionIndex index(tokens, 2, 8, SepSpec(2));
  EXPECT_EQ(std::vector<int32_t>(index.positions(0).begin(), index.positions(0).end()),
            (std::vector<int32_t>{0, 1, 4, 5, 7}));
  EXPECT_EQ(std::vector<int32_t>(index.count(0).begin(), index.count(0).end()),
            (std::vector<int32_t>{1, 2, 2, 2, 3, 4, 4, 5}));
  EXPECT_EQ(std::vector<int32_t>(index.inverse(0).begin(), index.inverse(0).end()),
            (std::vector<int32_t>{0, 1, -1, -1, 2, 3, -1, 4}));
  EXPECT_EQ(std::vector<int32_t>(index.positions(1).begin(), index.positions(1).end()),
            (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(index.max_packed(), 5);
}

TEST(AttentionIndexTest, FullHasNoPackedKeys) {
  const AttentionIndex index(std::vector<int32_t>(10, 13), 1, 10,
                             {AttentionKind::kFull, 3, 0, {13}});
  EXPECT_EQ(index.max_packed(), 0);
  EXPECT_EQ(index.VisiblePairs(10), 55);
  EXPECT_EQ(index.VisiblePairs(1000), 55);
}

TEST(AttentionIndexTest, RefusesAStrideOfZeroAndAWrongSize) {
  const std::vector<int32_t> tokens(10, 1);
  EXPECT_THROW(AttentionIndex(tokens, 1, 10, {AttentionKind::kFixedStride, 0, 0, {}}),
               InternalError);
  EXPECT_THROW(AttentionIndex(tokens, 2, 10, {AttentionKind::kSep, 0, 0, {}}), InternalError);
}

std::vector<int32_t> Int32s(const checkpoint::SafetensorsFile& file, const std::string& name) {
  const std::vector<int64_t> values = file.ReadIntegers(file.Get(name));
  return {values.begin(), values.end()};
}

// `expected` [B, T, T] of one window, bit for bit.
void ExpectMask(const AttentionIndex& index, int64_t window, std::span<const std::byte> expected) {
  const auto row_size = static_cast<size_t>(index.seq_length() * index.seq_length());
  ASSERT_EQ(expected.size(), row_size * static_cast<size_t>(index.batch_size()));
  for (int64_t row = 0; row < index.batch_size(); ++row) {
    const std::vector<uint8_t> mask = PackedMask(index, row, window);
    const std::byte* wanted = expected.data() + static_cast<size_t>(row) * row_size;
    for (size_t at = 0; at < row_size; ++at) {
      ASSERT_EQ(mask[at], static_cast<uint8_t>(wanted[at]))
          << "row " << row << " i " << at / static_cast<size_t>(index.seq_length()) << " j "
          << at % static_cast<size_t>(index.seq_length()) << " window " << window;
    }
  }
}

// build_prefill_mask of HKUDS/SepLLM: case*.tokens [B, T], .windows [N], .mask [N, B, T, T].
TEST(AttentionIndexTest, EqualsTheMasksOfTheSepLlmAuthors) {
  SEPIA_SHARED_OR_SKIP(path, "fixtures/masks/masks.safetensors");
  const checkpoint::SafetensorsFile file(path);
  int num_cases = 0;
  for (; file.Find(fmt::format("case{}.mask", num_cases)) != nullptr; ++num_cases) {
    const std::string prefix = fmt::format("case{}.", num_cases);
    const checkpoint::SafetensorsEntry& tokens = file.Get(prefix + "tokens");
    const AttentionIndex index(Int32s(file, prefix + "tokens"), tokens.shape[0], tokens.shape[1],
                               SepSpec(Int32s(file, prefix + "num_initial")[0]));
    const std::vector<int32_t> windows = Int32s(file, prefix + "windows");
    const std::span<const std::byte> masks = file.Get(prefix + "mask").bytes;
    const size_t mask_size = masks.size() / windows.size();
    for (size_t n = 0; n < windows.size(); ++n) {
      SCOPED_TRACE(prefix);
      ExpectMask(index, windows[n], masks.subspan(n * mask_size, mask_size));
    }
  }
  EXPECT_EQ(num_cases, 3);
}

// What a case of fixtures/models says by its name (fixtures/README.md), for one layer.
struct LayerRule {
  AttentionIndexSpec spec;
  int64_t window;
};

int64_t NumberAfter(const std::string& name, const std::string& key) {
  const size_t at = name.find(key);
  CHECK(at != std::string::npos, "{} in {}", key, name);
  return std::stoll(name.substr(at + key.size()));
}

LayerRule RuleOf(const std::string& name, int64_t layer, int64_t num_layers, int64_t seq_length) {
  const LayerRule full = {{AttentionKind::kFull, 0, 0, {}}, seq_length};
  if (name == "full") return full;
  if (name == "per_layer") return {SepSpec(static_cast<int32_t>(layer)), 4 + 6 * layer};
  if (name.starts_with("strm")) {
    return {{AttentionKind::kStreaming, 4, 0, {}}, NumberAfter(name, "_n")};
  }
  if (name.starts_with("fix")) {
    const auto stride = static_cast<int32_t>(NumberAfter(name, "_d"));
    return {{AttentionKind::kFixedStride, 3, stride, {}}, NumberAfter(name, "_n")};
  }
  if (layer == 0 && (name.ends_with("_H") || name.ends_with("_HT"))) return full;
  if (layer == num_layers - 1 && name.ends_with("_HT")) return full;
  const int32_t num_initial = name.ends_with("_a0") ? 0 : 3;
  return {SepSpec(num_initial), NumberAfter(name, "_n")};
}

TEST(AttentionIndexTest, EqualsTheMasksOfTheReferenceModels) {
  SEPIA_SHARED_OR_SKIP(root, "fixtures/models");
  int num_masks = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() != ".safetensors" || name == "model") continue;
    const checkpoint::SafetensorsFile file(entry.path().string());
    const checkpoint::SafetensorsEntry* mask = file.Find("mask");
    if (mask == nullptr) continue;  // adamw_*: states, not cases
    SCOPED_TRACE(entry.path().string());
    const int64_t num_layers = mask->shape[0];
    const size_t layer_size = mask->bytes.size() / static_cast<size_t>(num_layers);
    const std::vector<int32_t> tokens = Int32s(file, "tokens");
    for (int64_t layer = 0; layer < num_layers; ++layer) {
      const LayerRule rule = RuleOf(name, layer, num_layers, mask->shape[2]);
      const AttentionIndex index(tokens, mask->shape[1], mask->shape[2], rule.spec);
      ExpectMask(index, rule.window,
                 mask->bytes.subspan(static_cast<size_t>(layer) * layer_size, layer_size));
      ++num_masks;
    }
  }
  EXPECT_GT(num_masks, 50);
}

}  // namespace
}  // namespace sepia
