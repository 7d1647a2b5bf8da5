// Files: what is there after each operation, and what the messages say when one fails.
#include "base/file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/log.h"
#include "tests/support/temp_dir.h"

namespace sepia {
namespace {

using testing::TempDir;

int NumEntries(const std::string& path) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path)) ++count;
  return count;
}

TEST(File, AtomicWriteReplacesAndLeavesNothingElse) {
  const TempDir dir;
  const std::string path = dir.File("a");
  WriteFileAtomic(path, "one");
  WriteFileAtomic(path, "second");
  EXPECT_EQ(ReadFile(path), "second");
  EXPECT_EQ(NumEntries(dir.path()), 1);
}

TEST(File, MissingFileIsBadDataWithThePath) {
  const TempDir dir;
  for (const bool mapped : {false, true}) {
    try {
      if (mapped) {
        MappedFile file(dir.File("missing"));
      } else {
        ReadFile(dir.File("missing"));
      }
      FAIL();
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData);
      EXPECT_NE(std::string(error.what()).find(dir.File("missing")), std::string::npos);
    }
  }
}

TEST(File, ReadPastTheEndNamesTheOffset) {
  const TempDir dir;
  WriteFileAtomic(dir.File("a"), "12345");
  std::vector<std::byte> bytes(4);
  const File file = File::OpenForRead(dir.File("a"));
  file.ReadAt(1, bytes);
  EXPECT_EQ(static_cast<char>(bytes[3]), '5');
  EXPECT_THROW(file.ReadAt(2, bytes), UserError);
  EXPECT_THROW(ReadFile(dir.File("a"), 4), UserError);
}

TEST(File, MapsWholeFilesAndEmptyOnes) {
  const TempDir dir;
  WriteFileAtomic(dir.File("a"), "xyz");
  WriteFileAtomic(dir.File("empty"), "");
  MappedFile a(dir.File("a"));
  EXPECT_EQ(a.size(), 3);
  EXPECT_EQ(static_cast<char>(a.bytes()[2]), 'z');
  const MappedFile moved = std::move(a);
  EXPECT_EQ(moved.size(), 3);
  EXPECT_EQ(MappedFile(dir.File("empty")).size(), 0);
}

TEST(File, RenameNeverReplaces) {
  const TempDir dir;
  WriteFileAtomic(dir.File("a"), "a");
  WriteFileAtomic(dir.File("b"), "b");
  EXPECT_THROW(RenameNoReplace(dir.File("a"), dir.File("b")), UserError);
  EXPECT_EQ(ReadFile(dir.File("b")), "b");
  RenameNoReplace(dir.File("a"), dir.File("c"));
  EXPECT_EQ(ReadFile(dir.File("c")), "a");
}

// A write that fails half-way must leave the old content and no temporary file.
TEST(File, FailedAtomicWriteLeavesTheOldContent) {
  const TempDir dir;
  const std::string path = dir.File("a");
  WriteFileAtomic(path, "old");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      WriteFileAtomic(path, std::string(100000, 'x'));
      _exit(1);
    } catch (const UserError& error) {
      _exit(error.code() == ExitCode::kCannotWrite ? 0 : 2);
    }
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(ReadFile(path), "old");
  EXPECT_EQ(NumEntries(dir.path()), 1);
}

TEST(File, AppendsAndTruncates) {
  const TempDir dir;
  {
    File file = File::OpenForAppend(dir.File("log"));
    file.Write("one\n");
    file.Write("two\n");
    file.Close();
  }
  File file = File::OpenForAppend(dir.File("log"));
  EXPECT_EQ(file.Size(), 8);
  file.Truncate(4);
  file.Close();
  EXPECT_EQ(ReadFile(dir.File("log")), "one\n");
  EXPECT_EQ(DirectoryOf("a"), ".");
  EXPECT_EQ(DirectoryOf("/x/y"), "/x");
}

TEST(Log, SinkSeesLevelsAndText) {
  std::vector<std::string> lines;
  SetLogSink([&](LogLevel level, std::string_view text) {
    lines.push_back((level == LogLevel::kWarn ? "W:" : "I:") + std::string(text));
  });
  LogInfo("a {}", 1);
  LogWarn("b");
  SetLogSink(nullptr);
  EXPECT_EQ(lines, (std::vector<std::string>{"I:a 1", "W:b"}));
}

}  // namespace
}  // namespace sepia
