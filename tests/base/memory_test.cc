// Shape, views, Buffer, Arena, checks and errors.
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/tensor.h"

namespace sepia {
namespace {

TEST(Check, FailureNamesPlaceConditionAndValues) {
  const int a = 2;
  try {
    CHECK_EQ(a, 3);
    FAIL();
  } catch (const InternalError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("memory_test.cc:"), std::string::npos) << message;
    EXPECT_NE(message.find("a == 3 (2 vs 3)"), std::string::npos) << message;
    EXPECT_EQ(error.code(), ExitCode::kInternal);
  }
  EXPECT_THROW(CHECK(a > 5, "a is {}", a), InternalError);
  EXPECT_NO_THROW(CHECK(a == 2));
}

TEST(Error, MessagesNamePathOffsetAndRemedy) {
  const UserError error = BadData("x.idx", 17, "version 2", "make it again");
  EXPECT_STREQ(error.what(), "x.idx: offset 17: version 2; make it again");
  EXPECT_EQ(error.code(), ExitCode::kBadData);
  EXPECT_EQ(CannotWrite("/x", ENOSPC).code(), ExitCode::kCannotWrite);
  EXPECT_EQ(UserError("usage").code(), ExitCode::kUsage);
}

TEST(Shape, RefusesOverflowAndNegativeDimensions) {
  EXPECT_EQ((Shape{2, 3, 4}).num_elements(), 24);
  EXPECT_EQ(Shape{}.num_elements(), 1);
  EXPECT_EQ((Shape{0, int64_t{1} << 60}).num_elements(), 0);
  EXPECT_EQ((Shape{2, 3}).ToString(), "[2, 3]");
  EXPECT_THROW((Shape{int64_t{1} << 40, int64_t{1} << 40}), InternalError);
  EXPECT_THROW((Shape{-1}), InternalError);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1}), InternalError);
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_NE((Shape{1}), (Shape{1, 1}));
}

TEST(TensorView, IsTriviallyCopyableAndChecked) {
  static_assert(std::is_trivially_copyable_v<TensorView>);
  static_assert(!std::is_convertible_v<ConstTensorView, TensorView>);
  std::vector<float> values = {0, 1, 2, 3, 4, 5};
  const TensorView view = TensorView::Of(std::span(values), {3, 2});
  EXPECT_THROW((void)view.data<int32_t>(), InternalError);
  EXPECT_EQ(TensorView(view.Rows(1, 2)).data<float>()[0], 2);
  EXPECT_EQ(view.Rows(1, 2).shape(), (Shape{2, 2}));
  EXPECT_THROW(view.Rows(2, 2), InternalError);
  EXPECT_THROW(view.Reshaped({7}), InternalError);
  EXPECT_EQ(view.Reshaped({6}).num_bytes(), 24);
  EXPECT_TRUE(TensorView().empty());
  EXPECT_FALSE(view.empty());
}

TEST(Arena, CountsExactlyWhatItAllocates) {
  const auto fill = [](Arena& arena) {
    arena.Allocate("a", DType::kFloat32, {3});
    const int64_t mark = arena.Mark();
    arena.Allocate("b", DType::kBFloat16, {1000});
    arena.Release(mark);
    arena.Allocate("c", DType::kUInt8, {1});
  };
  Arena plan("plan");
  fill(plan);
  EXPECT_EQ(plan.high_water_bytes(), 256 + 2048);
  EXPECT_EQ(plan.used_bytes(), 512);

  Arena real("real", plan.high_water_bytes());
  fill(real);
  EXPECT_EQ(real.high_water_bytes(), plan.high_water_bytes());
  ASSERT_EQ(real.records().size(), 2u);
  EXPECT_EQ(real.records()[1].name, "c");
  EXPECT_THROW(real.Allocate("d", DType::kUInt8, {5000}), InternalError);
}

TEST(Arena, RecordsAreAlignedAndDisjoint) {
  Arena arena("arena", 1 << 16);
  const TensorView a = arena.Allocate("a", DType::kUInt8, {7});
  const TensorView b = arena.Allocate("b", DType::kFloat32, {5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.raw()) % Arena::kAlignment, 0u);
  EXPECT_EQ(static_cast<std::byte*>(b.raw()) - static_cast<std::byte*>(a.raw()), 256);
}

TEST(Buffer, RefusalNamesThePurpose) {
  try {
    Buffer buffer(int64_t{1} << 60, "the activations");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kEnvironment);
    EXPECT_NE(std::string(error.what()).find("the activations"), std::string::npos);
  }
  EXPECT_EQ(Buffer(0, "nothing").data(), nullptr);
}

TEST(Clock, FormatsDurations) {
  EXPECT_EQ(FormatDuration(0.4), "0s");
  EXPECT_EQ(FormatDuration(59.6), "1m 00s");
  EXPECT_EQ(FormatDuration(723), "12m 03s");
  EXPECT_EQ(FormatDuration(3600 + 7 * 60), "1h 07m");
  EXPECT_EQ(FormatDuration(86400 * 3 + 4 * 3600), "3d 4h");
  EXPECT_EQ(FormatUtc(0), "1970-01-01T00:00:00Z");
}

}  // namespace
}  // namespace sepia
