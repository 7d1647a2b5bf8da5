// main() of every test program: prints how many tests were skipped and why, so that a skip is
// never silent.
#include <cstdio>

#include <gtest/gtest.h>

namespace {

class SkipReporter : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.skipped()) return;
    const testing::TestInfo* info = testing::UnitTest::GetInstance()->current_test_info();
    std::printf("SKIPPED %s.%s: %s\n", info == nullptr ? "?" : info->test_suite_name(),
                info == nullptr ? "?" : info->name(), result.summary());
  }
  void OnTestProgramEnd(const testing::UnitTest& unit_test) override {
    std::printf("%d passed, %d failed, %d skipped\n", unit_test.successful_test_count(),
                unit_test.failed_test_count(), unit_test.skipped_test_count());
  }
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new SkipReporter);
  return RUN_ALL_TESTS();
}
