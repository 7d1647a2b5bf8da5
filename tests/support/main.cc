// main() of every test program: prints how many tests were skipped and why, so that a skip is
// never silent.
#include <cstdio>

#include <gtest/gtest.h>

namespace {

class SkipReporter : public testing::EmptyTestEventListener {
  // Here, not in OnTestPartResult, where gtest holds the lock that test_info's owner needs.
  void OnTestEnd(const testing::TestInfo& info) override {
    const testing::TestResult& result = *info.result();
    if (!result.Skipped()) return;
    for (int i = 0; i < result.total_part_count(); ++i) {
      const testing::TestPartResult& part = result.GetTestPartResult(i);
      if (!part.skipped()) continue;
      std::printf("SKIPPED %s.%s: %s\n", info.test_suite_name(), info.name(), part.summary());
    }
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
