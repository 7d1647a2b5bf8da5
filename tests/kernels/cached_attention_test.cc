// A sequence fed to the cache in pieces gives the attention of the whole, by the double oracle.
#include "kernels/cached_attention.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"
#include "tests/oracle/attention.h"

namespace sepia::kernels {
namespace {

using ::sepia::kernels::testing::RandomTensor;
using ::sepia::kernels::testing::RandomTokens;
using ::sepia::kernels::testing::TestContext;
using ::sepia::testing::AttentionProblem;

struct Case {
  AttentionKind kind = AttentionKind::kSep;
  int64_t window = 8;
  int32_t num_initial = 3;
  std::vector<int64_t> pieces = {1};  // tokens a call
  int64_t num_heads = 2;
  int64_t head_dim = 8;
  DType dtype = DType::kFloat32;
  int num_threads = 2;
  double query_scale = 1;

  int64_t length() const { return std::accumulate(pieces.begin(), pieces.end(), int64_t{0}); }
  std::string Describe() const {
    return fmt::format("kind {} window {} initial {} pieces {} T {} H {} D {} {}",
                       static_cast<int>(kind), window, num_initial, pieces.size(), length(),
                       num_heads, head_dim, DTypeName(dtype));
  }
};

struct Answer {
  AttentionProblem problem;
  OwnedTensor out;  // [T, H, D]
};

// The rows [begin, begin + count) of the first dimension.
TensorView Rows(const TensorView& tensor, int64_t begin, int64_t count) {
  const auto all = tensor.shape().dims();
  std::vector<int64_t> dims(all.begin(), all.end());
  const int64_t row_bytes = tensor.num_bytes() / dims[0];
  dims[0] = count;
  return {static_cast<std::byte*>(tensor.raw()) + begin * row_bytes, tensor.dtype(),
          Shape(std::span<const int64_t>(dims))};
}

Answer Attend(const Case& c) {
  const int64_t length = c.length();
  const Shape shape = {length, c.num_heads, c.head_dim};
  const OwnedTensor tokens = RandomTokens({length}, 6, 1);
  const OwnedTensor qkv =
      RandomTensor(c.dtype, {length, c.num_heads, 3, c.head_dim}, 2, c.query_scale);
  Answer answer;
  answer.problem = {
      .batch_size = 1,
      .seq_length = length,
      .num_heads = c.num_heads,
      .head_dim = c.head_dim,
      .spec = {c.kind, c.kind == AttentionKind::kFull ? 0 : c.num_initial,
               c.kind == AttentionKind::kFixedStride ? 5 : 0,
               c.kind == AttentionKind::kSep ? std::vector<int32_t>{2} : std::vector<int32_t>{}},
      .window = c.window,
      .tokens = {tokens.data<int32_t>(), tokens.data<int32_t>() + length},
      .qkv = testing::Values(qkv)};
  answer.out = OwnedTensor(c.dtype, shape);
  // One row more than needed, and nothing in it yet: reading it, or rows not written, shows.
  const OwnedTensor keys(c.dtype, {length + 1, c.num_heads, c.head_dim});
  const OwnedTensor values(c.dtype, keys.view().shape());
  for (const OwnedTensor* cache : {&keys, &values}) {
    std::memset(cache->view().raw(), 0xff, static_cast<size_t>(cache->view().num_bytes()));
  }
  TestContext ctx(c.num_threads, CachedAttentionScratchBytes(length, c.num_threads));
  int64_t begin = 0;
  for (const int64_t count : c.pieces) {
    const std::vector<int32_t> seen(answer.problem.tokens.begin(),
                                    answer.problem.tokens.begin() + begin + count);
    const AttentionIndex index(seen, 1, begin + count, answer.problem.spec);
    const bool full = c.kind == AttentionKind::kFull;
    CachedAttention(ctx, {.qkv = Rows(qkv, begin, count),
                          .begin = begin,
                          .index = full ? nullptr : &index,
                          .window = full ? std::numeric_limits<int64_t>::max() : c.window,
                          .keys = keys,
                          .values = values,
                          .out = Rows(answer.out, begin, count)});
    begin += count;
  }
  return answer;
}

void ExpectMatchesOracle(const Case& c) {
  SCOPED_TRACE(c.Describe());
  const Answer answer = Attend(c);
  const auto expected = ::sepia::testing::AttentionForward(answer.problem).out;
  // Sums of D products and of at most T probabilities, each addition within half an ulp of what was
  // summed; an error of an exponent enters twice, above and below the bar; scaling, exponential and
  // division add a handful.
  const double k = 2.0 * static_cast<double>(c.head_dim + c.length()) + 32;
  const auto bound = [&](size_t i) {
    const double fp32_error = k * 0x1p-24 * expected.magnitude[i];
    return fp32_error + testing::RoundingError(c.dtype, std::abs(expected.value[i]) + fp32_error);
  };
  testing::ExpectWithin(answer.out, expected.value, bound, "out");
}

std::vector<int64_t> OneByOne(int64_t prompt, int64_t more) {
  std::vector<int64_t> pieces = {prompt};
  pieces.insert(pieces.end(), static_cast<size_t>(more), 1);
  return pieces;
}

TEST(CachedAttentionTest, KindsAndDTypes) {
  for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kSep,
                                   AttentionKind::kStreaming, AttentionKind::kFixedStride}) {
    for (const DType dtype : testing::kComputeDTypes) {
      ExpectMatchesOracle({.kind = kind, .pieces = OneByOne(13, 30), .dtype = dtype});
    }
  }
}

TEST(CachedAttentionTest, AnyPieces) {
  for (const auto& pieces : std::vector<std::vector<int64_t>>{
           {1}, {40}, OneByOne(1, 39), {7, 8, 9}, {3, 1, 30, 1, 1, 17}}) {
    ExpectMatchesOracle({.pieces = pieces});
  }
}

TEST(CachedAttentionTest, WindowsAndInitialPositions) {
  for (const int64_t window : {1, 2, 7, 8, 36, 37, 38, 1000}) {
    for (const int32_t num_initial : {0, 1, 5, 40}) {
      ExpectMatchesOracle(
          {.window = window, .num_initial = num_initial, .pieces = OneByOne(7, 30)});
    }
  }
}

TEST(CachedAttentionTest, HeadSizes) {
  for (const int64_t head_dim : {1, 3, 15, 16, 17, 64, 80, 128, 256}) {
    ExpectMatchesOracle({.pieces = OneByOne(10, 10), .num_heads = 3, .head_dim = head_dim});
  }
}

// Scores of several hundred: the softmax must not overflow.
TEST(CachedAttentionTest, LargeScores) {
  ExpectMatchesOracle({.pieces = OneByOne(10, 30), .head_dim = 16, .query_scale = 15});
}

// Memory a page a position, of which those in `open` can be read and written and no others.
class PagePerPosition {
 public:
  static int64_t PageBytes() { return sysconf(_SC_PAGESIZE); }
  PagePerPosition(int64_t length, const std::vector<int64_t>& open)
      : num_bytes_(static_cast<size_t>(length * PageBytes())),
        memory_(static_cast<std::byte*>(
            mmap(nullptr, num_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    CHECK(memory_ != MAP_FAILED, "no memory of {} bytes", num_bytes_);
    for (const int64_t position : open) {
      CHECK_EQ(mprotect(memory_ + position * PageBytes(), static_cast<size_t>(PageBytes()),
                        PROT_READ | PROT_WRITE),
               0);
    }
  }
  ~PagePerPosition() { munmap(memory_, num_bytes_); }
  PagePerPosition(const PagePerPosition&) = delete;
  PagePerPosition& operator=(const PagePerPosition&) = delete;
  std::byte* data() const { return memory_; }

 private:
  size_t num_bytes_;
  std::byte* memory_;
};

// One token after `length` - 1 others of which only `visible` can be read.
void AttendAmongPages(int64_t length, const AttentionIndex& index, int64_t window,
                      const std::vector<int64_t>& visible) {
  constexpr int64_t kHeadDim = 64;
  const auto num_heads =
      PagePerPosition::PageBytes() / (kHeadDim * static_cast<int64_t>(sizeof(float)));
  const PagePerPosition keys(length, visible);
  const PagePerPosition values(length, visible);
  const Shape cache = {length, num_heads, kHeadDim};
  const OwnedTensor qkv = RandomTensor(DType::kFloat32, {1, num_heads, 3, kHeadDim}, 2);
  const OwnedTensor out(DType::kFloat32, {1, num_heads, kHeadDim});
  TestContext ctx(1, CachedAttentionScratchBytes(length, 1));
  CachedAttention(ctx, {.qkv = qkv,
                        .begin = length - 1,
                        .index = &index,
                        .window = window,
                        .keys = TensorView(keys.data(), DType::kFloat32, cache),
                        .values = TensorView(values.data(), DType::kFloat32, cache),
                        .out = out});
}

// A step touches the keys that it sees, here always 12, and none of the others, so that it costs
// the same however many lie behind it: each position is a page, and hidden pages must not be
// touched.
TEST(CachedAttentionTest, ReadsNoKeyThatIsHidden) {
  constexpr int64_t kWindow = 8;
  for (const int64_t length : {100, 1000, 5000}) {
    std::vector<int32_t> tokens(static_cast<size_t>(length), 1000);
    tokens[5] = kernels::testing::kSeparator;
    const AttentionIndex index(tokens, 1, length,
                               {AttentionKind::kSep, 3, 0, {kernels::testing::kSeparator}});
    std::vector<int64_t> visible = {0, 1, 2, 5};
    for (int64_t j = length - kWindow; j < length; ++j) visible.push_back(j);
    EXPECT_EXIT(
        {
          AttendAmongPages(length, index, kWindow, visible);
          std::exit(0);
        },
        ::testing::ExitedWithCode(0), "")
        << length;
    // The trap works: without its first separator the same step ends in a signal.
    visible.erase(visible.begin() + 3);
    EXPECT_DEATH(AttendAmongPages(length, index, kWindow, visible), "") << length;
  }
}

TEST(CachedAttentionTest, SameBitsForAnyNumberOfThreadsAndAnyPieces) {
  Case c = {.pieces = {60}, .num_heads = 3, .num_threads = 1};
  const Answer whole = Attend(c);
  for (const int num_threads : testing::kThreadCounts) {
    c.num_threads = num_threads;
    c.pieces = OneByOne(num_threads, 60 - num_threads);
    EXPECT_TRUE(testing::SameBits(Attend(c).out, whole.out)) << num_threads;
  }
}

}  // namespace
}  // namespace sepia::kernels
