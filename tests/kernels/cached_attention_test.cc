// A sequence fed to the cache in pieces gives the attention of the whole, by the double oracle.
#include "kernels/cached_attention.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/device_memory.h"
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
  std::vector<int32_t> separators = {2};  // of tokens 0 .. 5

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
  answer.problem = {.batch_size = 1,
                    .seq_length = length,
                    .num_heads = c.num_heads,
                    .head_dim = c.head_dim,
                    .spec = {c.kind, c.kind == AttentionKind::kFull ? 0 : c.num_initial,
                             c.kind == AttentionKind::kFixedStride ? 5 : 0,
                             c.kind == AttentionKind::kSep ? c.separators : std::vector<int32_t>{}},
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
  const int64_t most = *std::max_element(c.pieces.begin(), c.pieces.end());
  TestContext ctx(c.num_threads, CachedAttentionScratchBytes({.num_new = most,
                                                              .length = length,
                                                              .num_heads = c.num_heads,
                                                              .head_dim = c.head_dim,
                                                              .dtype = c.dtype,
                                                              .num_threads = c.num_threads,
                                                              .device = testing::kTestDevice}));
  int64_t begin = 0;
  for (const int64_t count : c.pieces) {
    const std::vector<int32_t> seen(answer.problem.tokens.begin(),
                                    answer.problem.tokens.begin() + begin + count);
    const AttentionIndex index(seen, 1, begin + count, answer.problem.spec);
    const bool full = c.kind == AttentionKind::kFull;
    // What no token sees any more may be anything.
    for (int64_t j = 0; !full && j <= begin - c.window; ++j) {
      if (index.inverse(0)[static_cast<size_t>(j)] >= 0) continue;
      for (const OwnedTensor* cache : {&keys, &values}) {
        const TensorView row = Rows(*cache, j, 1);
        std::memset(row.raw(), 0xff, static_cast<size_t>(row.num_bytes()));
      }
    }
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

// On a device the first piece, a prompt, runs on tensor-core kernels, which round probabilities.
double PromptError(const Case& c, double terms, size_t i) {
  const auto prompt = static_cast<size_t>(c.pieces[0]);
  const size_t token = i / static_cast<size_t>(c.head_dim * c.num_heads);
  const bool is_rounded = testing::kTestDevice == Device::kCuda && c.dtype != DType::kFloat32 &&
                          prompt > 1 && token < prompt;
  if (!is_rounded) return 0;
  // In fp16, half a subnormal step for each probability times values below 2^3.
  const double vanishing = c.dtype == DType::kFloat16 ? 0x1p-22 * static_cast<double>(prompt) : 0;
  return 1.01 * testing::UnitRoundoff(c.dtype) * terms + vanishing;
}

void ExpectMatchesOracle(const Case& c) {
  SCOPED_TRACE(c.Describe());
  const Answer answer = Attend(c);
  const auto expected = ::sepia::testing::AttentionForward(answer.problem);
  // Sums of D products and of at most T probabilities, each addition within half an ulp of what was
  // summed; an error of an exponent enters twice, above and below the bar; scaling, exponential and
  // division add a handful.
  const double k = 2.0 * static_cast<double>(c.head_dim + c.length()) + 32;
  const auto bound = [&](size_t i) {
    const double error =
        k * 0x1p-24 * expected.out.magnitude[i] + PromptError(c, expected.out.terms[i], i);
    return error + testing::RoundingError(c.dtype, std::abs(expected.out.value[i]) + error);
  };
  testing::ExpectWithin(answer.out, expected.out.value, bound, "out");
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

TEST(CachedAttentionTest, NoAndOnlySeparators) {
  for (const auto& separators : std::vector<std::vector<int32_t>>{{}, {0, 1, 2, 3, 4, 5}}) {
    for (const int32_t num_initial : {0, 3}) {
      ExpectMatchesOracle({.num_initial = num_initial,
                           .pieces = OneByOne(1, 25),
                           .dtype = DType::kBFloat16,
                           .separators = separators});
    }
  }
}

TEST(CachedAttentionTest, HeadSizes) {
  for (const int64_t head_dim : {1, 3, 15, 16, 17, 64, 80, 128, 256}) {
    ExpectMatchesOracle({.pieces = OneByOne(10, 10), .num_heads = 3, .head_dim = head_dim});
  }
}

// More keys than one block of a device takes: their sums meet at the end.
TEST(CachedAttentionTest, LongCaches) {
  for (const DType dtype : testing::kComputeDTypes) {
    for (const int64_t head_dim : {8, 20, 64}) {
      ExpectMatchesOracle({.kind = AttentionKind::kFull,
                           .pieces = OneByOne(254, 4),
                           .num_heads = 1,
                           .head_dim = head_dim,
                           .dtype = dtype});
    }
  }
  ExpectMatchesOracle({.window = 130, .pieces = {250, 3, 20}, .num_heads = 3});
}

// Scores of several hundred: the softmax must not overflow.
TEST(CachedAttentionTest, LargeScores) {
  ExpectMatchesOracle({.pieces = OneByOne(10, 30), .head_dim = 16, .query_scale = 15});
}

// Memory a page a position, of which those in `open` can be read and written and no others. An
// emulated device has the host's memory.
class PagePerPosition {
 public:
  static int64_t PageBytes() { return sysconf(_SC_PAGESIZE); }
  PagePerPosition(int64_t length, const std::vector<int64_t>& open)
      : memory_(DType::kUInt8, {(length + 1) * PageBytes()}, testing::kTestDevice),
        num_bytes_(static_cast<size_t>(length * PageBytes())) {
    Protect(data(), num_bytes_, PROT_NONE);
    for (const int64_t position : open) {
      Protect(data() + position * PageBytes(), static_cast<size_t>(PageBytes()),
              PROT_READ | PROT_WRITE);
    }
  }
  ~PagePerPosition() { Protect(data(), num_bytes_, PROT_READ | PROT_WRITE); }
  PagePerPosition(const PagePerPosition&) = delete;
  PagePerPosition& operator=(const PagePerPosition&) = delete;
  std::byte* data() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.view().raw());
    const auto page = static_cast<uintptr_t>(PageBytes());
    return reinterpret_cast<std::byte*>((address + page - 1) / page * page);
  }

 private:
  static void Protect(std::byte* begin, size_t num_bytes, int access) {
    CHECK_EQ(mprotect(begin, num_bytes, access), 0);
  }

  OwnedTensor memory_;
  size_t num_bytes_;
};

OwnedTensor OnDevice(const ConstTensorView& tensor) {
  OwnedTensor there(tensor.dtype(), tensor.shape(), testing::kTestDevice);
  CopyTensor(tensor, there);
  return there;
}

// One token after `length` - 1 others of which only `visible` can be read.
void AttendAmongPages(int64_t length, const AttentionIndex& index, int64_t window,
                      const std::vector<int64_t>& visible) {
  constexpr int64_t kHeadDim = 64;
  const auto num_heads =
      PagePerPosition::PageBytes() / (kHeadDim * static_cast<int64_t>(sizeof(float)));
  TestContext ctx(1, CachedAttentionScratchBytes({.num_new = 1,
                                                  .length = length,
                                                  .num_heads = num_heads,
                                                  .head_dim = kHeadDim,
                                                  .dtype = DType::kFloat32,
                                                  .num_threads = 1,
                                                  .device = testing::kTestDevice}));
  const PagePerPosition keys(length, visible);
  const PagePerPosition values(length, visible);
  const Shape cache = {length, num_heads, kHeadDim};
  const OwnedTensor qkv = OnDevice(RandomTensor(DType::kFloat32, {1, num_heads, 3, kHeadDim}, 2));
  const OwnedTensor out(DType::kFloat32, {1, num_heads, kHeadDim}, testing::kTestDevice);
  const auto far_keys = [](std::span<const int32_t> part) {
    return OnDevice(ConstTensorView::Of(part, {static_cast<int64_t>(part.size())}));
  };
  const OwnedTensor positions = far_keys(index.positions(0)), count = far_keys(index.count(0));
  const auto cached = [&](const PagePerPosition& pages) {
    return TensorView(pages.data(), DType::kFloat32, cache, testing::kTestDevice);
  };
  CachedAttention(static_cast<Context&>(ctx), {.qkv = qkv,
                                               .begin = length - 1,
                                               .index = &index,
                                               .far_keys = {positions, count},
                                               .window = window,
                                               .keys = cached(keys),
                                               .values = cached(values),
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
