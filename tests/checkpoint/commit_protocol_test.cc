// A crash, a full disk or a leftover at any moment: the old or the new checkpoint is there, whole.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <random>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/step_directories.h"
#include "tests/checkpoint/tiny_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace sepia::checkpoint {
namespace {

using ::sepia::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HasTinyState;
using testing::SaveTiny;

class CommitProtocolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](LogLevel, std::string_view) {});
  }
  void TearDown() override { SetLogSink(nullptr); }

  CheckpointWriter Writer(const Retention& retention = {},
                          std::function<void(std::string_view)> before_stage = {}) {
    return CheckpointWriter(
        {.dir = dir_.path(), .retention = retention, .before_stage = std::move(before_stage)});
  }

  // Steps that FindCheckpoints finds whole, highest first.
  std::vector<int64_t> Steps() const {
    std::vector<int64_t> steps;
    for (const Candidate& candidate : FindCheckpoints(dir_.path())) {
      EXPECT_EQ(candidate.fault, "");
      steps.push_back(candidate.step);
    }
    return steps;
  }

  // The invariant after a crash while saving step `saving`, when `before` was committed.
  void ExpectOldOrNew(int64_t before, int64_t saving) const {
    const auto newest = NewestCheckpoint(dir_.path());
    ASSERT_TRUE(newest.has_value());
    const CheckpointReader reader(*newest);
    EXPECT_THAT(reader.VerifyDeep(), ElementsAre());
    ASSERT_TRUE(reader.step() == before || reader.step() == saving) << reader.step();
    EXPECT_TRUE(HasTinyState(*OpenModelSource(*newest), static_cast<int>(reader.step())));
  }

  TempDir dir_;
};

// Starts `body` in a child process.
pid_t StartChild(const std::function<void()>& body) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child > 0) return child;
  try {
    body();
  } catch (...) {
    _exit(9);
  }
  _exit(0);
}

// Its wait status, when it has ended.
int StatusOf(pid_t child) {
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return status;
}

int InChild(const std::function<void()>& body) { return StatusOf(StartChild(body)); }

constexpr const char* kStages[] = {"make directory", "attachments", "shard", "manifest", "commit",
                                   "rename",         "sync parent", "hint",  "retention"};

TEST_F(CommitProtocolTest, KillBeforeEveryStageLeavesOldOrNew) {
  int64_t step = 1;
  {
    CheckpointWriter writer = Writer();
    SaveTiny(&writer, step);
  }
  for (const char* stage : kStages) {
    for (const int keep_last : {0, 1}) {
      bool reached = false;
      const int status = InChild([&] {
        CheckpointWriter writer = Writer({.keep_last = keep_last}, [&](std::string_view name) {
          if (name == stage) kill(getpid(), SIGKILL);
        });
        SaveTiny(&writer, step + 1);
      });
      reached = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      EXPECT_TRUE(reached) << stage;
      ExpectOldOrNew(step, step + 1);
      // The next run sweeps and saves.
      CheckpointWriter writer = Writer();
      SaveTiny(&writer, step + 1);
      ExpectOldOrNew(step + 1, step + 1);
      for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
        EXPECT_EQ(entry.path().filename().string().find("tmp"), std::string::npos) << entry.path();
      }
      ++step;
    }
  }
}

// A child that saves the steps after `last`, one after the other, and tells of each that has
// returned.
class SavingChild {
 public:
  SavingChild(CheckpointWriterOptions options, int64_t last) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    read_end_ = ends[0];
    child_ = StartChild([&] {
      close(ends[0]);  // it ends with the test that listens
      CheckpointWriter writer(std::move(options));
      for (int64_t step = last + 1; step < last + 1000; ++step) {
        SaveTiny(&writer, step);
        if (write(ends[1], "x", 1) != 1) _exit(8);
      }
    });
    close(ends[1]);
  }
  ~SavingChild() {
    if (child_ > 0) Kill();
    close(read_end_);
  }
  SavingChild(const SavingChild&) = delete;
  SavingChild& operator=(const SavingChild&) = delete;

  // Waits for one more; false when the child has ended without.
  bool HasSaved() {
    char byte = 0;
    return read(read_end_, &byte, 1) == 1;
  }

  // Kills it; its wait status.
  int Kill() {
    kill(child_, SIGKILL);
    return StatusOf(std::exchange(child_, -1));
  }

 private:
  pid_t child_ = -1;
  int read_end_ = -1;
};

TEST_F(CommitProtocolTest, KillAtRandomTimesLeavesOldOrNew) {
  int64_t step = 1;
  {
    CheckpointWriter writer = Writer();
    SaveTiny(&writer, step);
  }
  std::mt19937 random(7);
  for (int round = 0; round < 40; ++round) {
    SCOPED_TRACE(round);
    SavingChild child({.dir = dir_.path(), .retention = {.keep_last = 2}}, step);
    // Half of the kills come after a save, however long the disk takes for it.
    int64_t saved = 0;
    if (round % 2 == 1) {
      ASSERT_TRUE(child.HasSaved());
      ++saved;
    }
    usleep(random() % 60'000);
    const int status = child.Kill();
    // Or it has saved all its steps.
    EXPECT_TRUE(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) << status;
    while (child.HasSaved()) ++saved;
    const auto newest = NewestCheckpoint(dir_.path());
    ASSERT_TRUE(newest.has_value());
    const CheckpointReader reader(*newest);
    // Every save that returned, and perhaps the one that was under way.
    EXPECT_GE(reader.step(), step + saved);
    EXPECT_LE(reader.step(), step + saved + 1);
    EXPECT_THAT(reader.VerifyDeep(), ElementsAre());
    EXPECT_TRUE(HasTinyState(*OpenModelSource(*newest), static_cast<int>(reader.step())));
    step = reader.step();
  }
}

TEST_F(CommitProtocolTest, FailureAtEveryStageBeforeTheCommitKeepsTheOldAndLeavesNothing) {
  {
    CheckpointWriter writer = Writer();
    SaveTiny(&writer, 1);
  }
  for (const char* stage : kStages) {
    CheckpointWriter writer = Writer({}, [&](std::string_view name) {
      if (name == stage) throw CannotWrite("disk", ENOSPC);
    });
    const bool committed =
        std::string_view(stage) == "hint" || std::string_view(stage) == "retention";
    if (committed) {  // only a hint or old files are at stake
      EXPECT_NO_THROW(SaveTiny(&writer, 2)) << stage;
      continue;
    }
    try {
      SaveTiny(&writer, 2);
      FAIL() << stage;
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kCannotWrite);
    }
    if (std::string_view(stage) == "sync parent") continue;  // renamed: either may survive
    EXPECT_THAT(Steps(), ElementsAre(1)) << stage;
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_.path()), {}), 2) << stage;
  }
}

// A file size limit stands for a full disk: the reservation fails before anything is written.
TEST_F(CommitProtocolTest, NoSpaceIsAnErrorThatHarmsNothing) {
  {
    CheckpointWriter writer = Writer();
    SaveTiny(&writer, 1);
  }
  for (const rlim_t limit : {100'000u, 4096u, 10u}) {
    const int status = InChild([&] {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit file_size{limit, limit};
      setrlimit(RLIMIT_FSIZE, &file_size);
      CheckpointWriter writer = Writer();
      try {
        SaveTiny(&writer, 2);
      } catch (const UserError& error) {
        _exit(static_cast<int>(error.code()));
      }
    });
    EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::kCannotWrite)) << limit;
    EXPECT_THAT(Steps(), ElementsAre(1));
    ExpectOldOrNew(1, 1);
  }
}

TEST_F(CommitProtocolTest, NoPermissionIsAnErrorThatHarmsNothing) {
  {
    CheckpointWriter writer = Writer();
    SaveTiny(&writer, 1);
  }
  chmod(dir_.path().c_str(), 0555);
  const int status = InChild([&] {
    constexpr uid_t kNobody = 65534;  // root may write everywhere
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(8);
    try {
      CheckpointWriter writer = Writer();
      SaveTiny(&writer, 2);
    } catch (const UserError& error) {
      _exit(static_cast<int>(error.code()));
    }
  });
  chmod(dir_.path().c_str(), 0755);
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::kCannotWrite));
  ExpectOldOrNew(1, 1);
}

TEST_F(CommitProtocolTest, SavingAStepAgainReplacesIt) {
  CheckpointWriter writer = Writer();
  const std::string path = SaveTiny(&writer, 3);
  const Uuid first = CheckpointReader(path).manifest().uuid;
  EXPECT_EQ(SaveTiny(&writer, 3), path);
  EXPECT_NE(CheckpointReader(path).manifest().uuid, first);
  EXPECT_THAT(Steps(), ElementsAre(3));
}

TEST_F(CommitProtocolTest, LeftoversAreNoCandidatesAndAreSwept) {
  EXPECT_EQ(NewestCheckpoint(dir_.File("not/there")), std::nullopt);
  EXPECT_EQ(NewestCheckpoint(dir_.path()), std::nullopt);
  for (const char* name : {"step_00000005.tmp-0a1b2c3d", ".trash-step_00000004", "keep.tmp-1"}) {
    CreateDirectories(dir_.File(name));
    WriteFileAtomic(dir_.File(name) + "/COMMIT", "x");
  }
  std::filesystem::remove_all(dir_.File("keep.tmp-1"));
  EXPECT_EQ(NewestCheckpoint(dir_.path()), std::nullopt);  // a fresh start
  CreateDirectories(dir_.File("keep.tmp-1"));
  CheckpointWriter writer = Writer();
  EXPECT_FALSE(FileExists(dir_.File("step_00000005.tmp-0a1b2c3d")));
  EXPECT_FALSE(FileExists(dir_.File(".trash-step_00000004")));
  EXPECT_TRUE(FileExists(dir_.File("keep.tmp-1")));  // not ours
}

TEST_F(CommitProtocolTest, ForeignFilesAndDamageAreNeverAFreshStart) {
  WriteFileAtomic(dir_.File("notes.txt"), "x");
  EXPECT_THROW(NewestCheckpoint(dir_.path()), UserError);

  CheckpointWriter writer = Writer();
  SaveTiny(&writer, 1);
  EXPECT_TRUE(NewestCheckpoint(dir_.path()).has_value());
  const std::string newest = SaveTiny(&writer, 2);
  std::filesystem::remove(newest + "/" + ShardFileName(0, 1));
  try {
    NewestCheckpoint(dir_.path());
    FAIL() << "passed over the damaged step 2 in silence";
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    EXPECT_THAT(error.what(), HasSubstr("step_00000001, train with --fallback-to-older or move " +
                                        newest + " away"));
  }
  const auto candidates = FindCheckpoints(dir_.path());
  ASSERT_EQ(candidates.size(), 2u);
  EXPECT_NE(candidates[0].fault, "");
  EXPECT_EQ(candidates[1].fault, "");
  // A directory that was renamed does not pass for another step.
  std::filesystem::remove_all(newest);
  std::filesystem::rename(dir_.File("step_00000001"), dir_.File("step_00000009"));
  EXPECT_THROW(NewestCheckpoint(dir_.path()), UserError);
}

TEST_F(CommitProtocolTest, RetentionKeepsWhatItSays) {
  CheckpointWriter writer = Writer({.keep_last = 2, .keep_every = 1000, .keep_log_spaced = true});
  for (const int64_t step : {0, 1, 2, 3, 4, 700, 999, 1000, 9000, 9001, 9999, 10000, 10001}) {
    SaveTiny(&writer, step);
  }
  EXPECT_THAT(Steps(), ElementsAre(10001, 10000, 9000, 1000, 4, 2, 1, 0));
  EXPECT_EQ(ReadFile(dir_.File("LATEST")), "step_00010001\n");
}

TEST_F(CommitProtocolTest, RetentionNeverRemovesTheStepJustSaved) {
  {
    CheckpointWriter writer = Writer();
    for (const int64_t step : {10, 20, 30}) SaveTiny(&writer, step);
  }
  CheckpointWriter writer = Writer({.keep_last = 1});
  SaveTiny(&writer, 15);  // a run that went back
  EXPECT_THAT(Steps(), ElementsAre(30, 15));
}

TEST_F(CommitProtocolTest, RetentionLeavesForeignDirectoriesAlone) {
  CreateDirectories(dir_.File("step_00000001"));
  WriteFileAtomic(dir_.File("step_00000001") + "/precious", "x");
  CheckpointWriter writer = Writer({.keep_last = 1});
  SaveTiny(&writer, 5);
  SaveTiny(&writer, 6);
  EXPECT_TRUE(FileExists(dir_.File("step_00000001") + "/precious"));
  EXPECT_FALSE(FileExists(dir_.File("step_00000005")));
}

TEST(StepNamesTest, OneSpellingAStep) {
  EXPECT_EQ(StepDirectoryName(1000), "step_00001000");
  EXPECT_EQ(StepDirectoryName(1234567890), "step_1234567890");
  EXPECT_EQ(ParseStepDirectoryName("step_00001000"), 1000);
  EXPECT_EQ(ParseStepDirectoryName("step_1234567890"), 1234567890);
  for (const char* name :
       {"step_1000", "step_000001000", "step_", "step_0000100x", "step_-0001000",
        "step_00001000.tmp-12345678", "xstep_00001000", "step_99999999999999999999"}) {
    EXPECT_EQ(ParseStepDirectoryName(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace sepia::checkpoint
