#include "checkpoint/safetensors.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::testing::HasSubstr;

void WriteText(const std::string& path, const std::string& text) {
  File file = File::Create(path);
  file.Write(text);
  file.Close();
}

// A file with this header (its length computed) and this much zero data.
std::string FileWithHeader(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header +
         std::string(data_bytes, '\0');
}

// Opens the text as a file; the message of the refusal, or "" when it is accepted.
std::string Refusal(const std::string& text) {
  const testing::TempDir dir;
  const std::string path = dir.File("x.safetensors");
  WriteText(path, text);
  try {
    SafetensorsFile{path};
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    EXPECT_THAT(error.what(), HasSubstr("x.safetensors"));
    return error.what();
  }
  return "";
}

struct Rule {
  const char* header;
  size_t data_bytes;
  const char* message;
};

// One file for each rule of docs/formats/safetensors.md.
TEST(SafetensorsTest, EveryHeaderRuleHasItsMessage) {
  constexpr const char* kGood = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(Refusal(FileWithHeader(kGood, 8)), "");
  EXPECT_EQ(Refusal(FileWithHeader(std::string(kGood) + "   ", 8)), "");
  const Rule rules[] = {
      {"", 0, "header is empty"},
      {"[]", 0, "does not start with '{'"},
      {" {}", 0, "does not start with '{'"},
      {"{}x", 0, "not valid JSON"},
      {"{\"a\xff\":1}", 0, "not valid JSON in UTF-8"},
      {R"({"a":3})", 0, "'a' is a number"},
      {R"({"a":null})", 0, "'a' is null"},
      {R"({"a":{"b":{}}})", 0, "unknown field 'b'"},
      {R"({"a":{"dtype":{}}})", 0, "nested too deep"},
      {R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", 8, "an array in shape"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8, "unknown field 'x'"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "data_offsets is missing"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, "shape is missing"},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, "dtype is missing"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, "two fields"},
      {R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,8]}})", 8, "unknown dtype 'F4'"},
      {R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", 8, "a number in dtype"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "negative number -2"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8, "not an integer"},
      {R"({"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})", 8, "a string in shape"},
      {R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,8]}})", 8, "a boolean in shape"},
      {R"({"a":{"dtype":"F32","shape":[562949953421312],"data_offsets":[0,8]}})", 8, "range"},
      {R"({"a":{"dtype":"F32","shape":[16777216,16777216,16777216],"data_offsets":[0,8]}})", 8,
       "overflows"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,2],"data_offsets":[0,8]}})", 8, "5 dimensions"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "needs 12 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "end before they begin"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "two entries"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8, "two entries"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", 16, "after a gap"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, "file ends 1 bytes before"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9, "1 bytes follow"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3, "inside another tensor"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
       4, "two tensors are named 'a'"},
      {R"({"__metadata__":{"a":1}})", 0, "object of strings"},
      {R"({"__metadata__":"a"})", 0, "object of strings"},
      {R"({"__metadata__":{"a":{}}})", 0, "nested too deep"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "two entries 'a'"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "two __metadata__"},
  };
  for (const Rule& rule : rules) {
    const std::string refusal = Refusal(FileWithHeader(rule.header, rule.data_bytes));
    EXPECT_THAT(refusal, HasSubstr(rule.message)) << rule.header;
  }
}

TEST(SafetensorsTest, LengthsThatLieAreRefused) {
  for (const uint64_t length :
       {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{7}}) {
    std::string text(reinterpret_cast<const char*>(&length), 8);
    EXPECT_NE(Refusal(text + "{}"), "") << length;
  }
  EXPECT_NE(Refusal(""), "");
  EXPECT_NE(Refusal("1234567"), "");
  EXPECT_THAT(Refusal(FileWithHeader(std::string("{}\0\0", 4), 0)), HasSubstr("NUL"));
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string good =
      FileWithHeader(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(Refusal(good.substr(0, length)), "") << length;
  }
}

TEST(SafetensorsTest, DeepNestingCostsNoStack) {
  EXPECT_NE(Refusal(FileWithHeader("{\"a\":" + std::string(5'000'000, '['), 0)), "");
  EXPECT_NE(Refusal(FileWithHeader("{\"a\":" + std::string(5'000'000, '{'), 0)), "");
}

TEST(SafetensorsTest, RoundTripKeepsEveryBit) {
  const testing::TempDir dir;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> matrix = {1, -0.0f, nan, std::numeric_limits<float>::infinity(), 1e-45f, 6};
  std::vector<BFloat16> half(3);
  std::vector<int64_t> integers = {-1, int64_t{1} << 40};
  std::vector<float> scalar = {7};
  for (size_t i = 0; i < half.size(); ++i) half[i].bits = static_cast<uint16_t>(0x3f80 + i);
  const SafetensorsTensor tensors[] = {
      {"b", TensorView::Of(std::span(matrix), {2, 3})},
      {"half", TensorView::Of(std::span(half), {3})},
      {"integers", TensorView::Of(std::span(integers), {2})},
      {"empty", TensorView(nullptr, DType::kFloat32, {0, 4})},
      {"a \"quoted\" näme", TensorView::Of(std::span(scalar), Shape{})},
  };
  const std::string path = dir.File("t.safetensors");
  WriteSafetensors(path, tensors, {{"step", "12"}});

  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("step"), "12");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.entries().size(), std::size(tensors));
  for (const SafetensorsTensor& tensor : tensors) {
    const SafetensorsEntry& entry = file.Get(tensor.name);
    EXPECT_EQ(entry.dtype, tensor.view.dtype());
    EXPECT_EQ(entry.shape, tensor.view.shape());
    ASSERT_EQ(static_cast<int64_t>(entry.bytes.size()), tensor.view.num_bytes());
    if (!entry.bytes.empty()) {
      EXPECT_EQ(std::memcmp(entry.bytes.data(), tensor.view.raw(), entry.bytes.size()), 0);
    }
  }
  std::vector<float> widened(3);
  file.ReadFloats(file.Get("half"), widened);
  EXPECT_THAT(widened, ::testing::ElementsAre(1.0f, 1.0078125f, 1.015625f));
  EXPECT_THAT(file.ReadIntegers(file.Get("integers")),
              ::testing::ElementsAre(-1, int64_t{1} << 40));
  EXPECT_THROW(file.ReadFloats(file.Get("integers"), widened), UserError);
  EXPECT_THROW(file.ReadIntegers(file.Get("half")), UserError);
  EXPECT_THROW(file.Get("nothing"), UserError);
  // Data start at a multiple of 8, the widest elements first.
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.Get("integers").bytes.data()) % 8, 0u);
}

TEST(SafetensorsTest, WithoutCommitNothingAppears) {
  const testing::TempDir dir;
  const SafetensorsSpec spec{"a", DType::kFloat32, {2}};
  { SafetensorsWriter writer(dir.File("x"), std::span(&spec, 1)); }
  EXPECT_FALSE(FileExists(dir.File("x")));
}

}  // namespace
}  // namespace sepia::checkpoint
