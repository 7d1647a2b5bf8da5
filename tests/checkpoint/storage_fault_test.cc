// Storage that fails or forgets: every call of a save in turn, and every state in which a power
// loss may leave the disk.
#include <cerrno>
#include <filesystem>
#include <functional>
#include <random>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/reader.h"
#include "checkpoint/step_directories.h"
#include "model/model_config.pb.h"
#include "tests/checkpoint/crash_disk.h"
#include "tests/checkpoint/faulty_calls.h"
#include "tests/checkpoint/tiny_checkpoint.h"

namespace sepia::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::CrashDisk;
using ::testing::ElementsAre;
using testing::Fault;
using testing::FaultyCalls;
using testing::HasTinyState;
using testing::SaveTiny;

class StorageFaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](LogLevel, std::string_view) {});
  }
  void TearDown() override { SetLogSink(nullptr); }

  // In memory where the system has such a place: thousands of fsyncs cost nothing there.
  class MemoryDir {
   public:
    MemoryDir() {
      const char* parent = fs::is_directory("/dev/shm") ? "/dev/shm" : "/tmp";
      path_ = fmt::format("{}/sepia-test-XXXXXX", parent);
      CHECK(mkdtemp(path_.data()) != nullptr);
    }
    ~MemoryDir() {
      std::error_code ignored;
      fs::remove_all(path_, ignored);
    }
    std::string File(const std::string& name) const { return path_ + "/" + name; }

   private:
    std::string path_;
  };

  MemoryDir dir_;
};

// The step of the newest checkpoint, which is whole; -1: there is none.
int64_t NewestStep(const std::string& root) {
  const auto newest = NewestCheckpoint(root);
  if (!newest) return -1;
  const CheckpointReader reader(*newest);
  EXPECT_THAT(reader.VerifyDeep(), ElementsAre());
  EXPECT_TRUE(HasTinyState(*OpenModelSource(*newest), static_cast<int>(reader.step())));
  return reader.step();
}

// Saves by three processes, as a run with ranks does.
void SaveInThreeShards(CheckpointWriter* writer, int64_t step) {
  config::ModelConfig model;
  testing::FillTinyModel(&model);
  const testing::TinyState state(static_cast<int>(step));
  const std::vector<CheckpointTensor> tensors = state.tensors();
  const TrainState train = testing::TinyTrainState(step);
  const SaveAttempt attempt = writer->Begin(step, 3);
  std::vector<std::string> reports;
  try {
    for (int rank = 0; rank < 3; ++rank) {
      std::vector<CheckpointTensor> share;
      for (size_t i = static_cast<size_t>(rank); i < tensors.size(); i += 3) {
        share.push_back(tensors[i]);
      }
      reports.push_back(WriteShardOf(attempt, rank, share));
    }
  } catch (...) {
    writer->Abandon(attempt);
    throw;
  }
  writer->Commit(attempt,
                 {.step = step,
                  .model = &model,
                  .tensors = {},
                  .train_state = &train,
                  .config_text = "",
                  .attachments = {}},
                 reports);
}

// Makes `tree` under `root`, which is emptied.
void Restore(const CrashDisk::Tree& tree, const std::string& root) {
  fs::remove_all(root);
  fs::create_directories(root);
  for (const auto& [path, content] : tree) {
    if (path.ends_with("/")) {
      fs::create_directories(root + path);
    } else {
      File file = File::Create(root + path);
      file.Write(content);
      file.Close();
    }
  }
}

class CrashTest : public StorageFaultTest {
 protected:
  std::string root() const { return dir_.File("disk"); }
  std::string checkpoints() const { return root() + "/checkpoints"; }

  void SetUp() override {
    StorageFaultTest::SetUp();
    CreateDirectories(root());
  }

  // Records `work`, then loads what every crash may leave. `work` marks the step that must not be
  // lost from there on (-1: nothing yet).
  void CheckEveryCrash(int64_t at_first, const std::function<void(CrashDisk*)>& work) {
    CrashDisk disk(root());
    disk.Mark(at_first);
    {
      const ScopedFileCalls scope(&disk);
      work(&disk);
    }
    std::mt19937 random(5);
    std::set<std::pair<int64_t, size_t>> seen;  // (mark, hash of the state)
    int64_t states = 0;
    for (size_t n = 1; n <= disk.num_operations(); ++n) {
      const int64_t mark = disk.MarkBefore(n);
      for (const CrashDisk::Tree& tree : disk.StatesAfter(n, kMostStates, &random)) {
        ++states;
        size_t hash = 0;
        for (const auto& [path, content] : tree) {
          hash = hash * 31 + std::hash<std::string>()(path + '\0' + content);
        }
        if (!seen.emplace(mark, hash).second) continue;
        CheckState(tree, mark, n);
        if (HasFailure()) return;
      }
    }
    std::printf("%zu operations, %lld crashes, %zu different states\n", disk.num_operations(),
                static_cast<long long>(states), seen.size());
    EXPECT_GT(seen.size(), disk.num_operations() / 2);
  }

 private:
  static constexpr size_t kMostStates = 20;

  void CheckState(const CrashDisk::Tree& tree, int64_t mark, size_t n) {
    const std::string copy = dir_.File("after");
    Restore(tree, copy);
    SCOPED_TRACE(fmt::format("after {} operations", n));
    int64_t step = -2;
    try {
      step = NewestStep(copy + "/checkpoints");
    } catch (const UserError& error) {
      ADD_FAILURE() << error.what();
    }
    EXPECT_GE(step, mark);
    if (++checked_ % 16 != 0 || HasFailure()) return;
    // Whatever lies around: the next run sweeps it and saves.
    CheckpointWriter writer({.dir = copy + "/checkpoints"});
    SaveTiny(&writer, 99);
    EXPECT_EQ(NewestStep(copy + "/checkpoints"), 99);
    for (const auto& entry : fs::directory_iterator(copy + "/checkpoints")) {
      EXPECT_EQ(entry.path().filename().string().find("tmp"), std::string::npos) << entry.path();
    }
  }

  int checked_ = 0;
};

TEST_F(CrashTest, FirstSaveEver) {
  CheckEveryCrash(-1, [&](CrashDisk* disk) {
    CheckpointWriter writer({.dir = checkpoints()});
    SaveTiny(&writer, 1);
    disk->Mark(1);
  });
}

TEST_F(CrashTest, SavesThatRemoveTheOneBefore) {
  {
    CheckpointWriter writer({.dir = checkpoints()});
    SaveTiny(&writer, 1);
  }
  CheckEveryCrash(1, [&](CrashDisk* disk) {
    CheckpointWriter writer({.dir = checkpoints(), .retention = {.keep_last = 1}});
    SaveTiny(&writer, 2);
    disk->Mark(2);
  });
}

TEST_F(CrashTest, SavesOfThreeRanks) {
  {
    CheckpointWriter writer({.dir = checkpoints()});
    SaveTiny(&writer, 1);
  }
  CheckEveryCrash(1, [&](CrashDisk* disk) {
    CheckpointWriter writer({.dir = checkpoints(), .retention = {.keep_last = 1}});
    SaveInThreeShards(&writer, 2);
    disk->Mark(2);
  });
}

TEST_F(CrashTest, AStepThatIsSavedAgain) {
  {
    CheckpointWriter writer({.dir = checkpoints()});
    SaveTiny(&writer, 2);
  }
  CheckEveryCrash(2, [&](CrashDisk*) {
    CheckpointWriter writer({.dir = checkpoints()});
    SaveTiny(&writer, 2);
  });
}

TEST_F(CrashTest, SweepingAndSettingAside) {
  {
    CheckpointWriter writer({.dir = checkpoints()});
    SaveTiny(&writer, 1);
    SaveTiny(&writer, 2);
  }
  fs::rename(checkpoints() + "/step_00000002", checkpoints() + "/step_00000002.tmp-0a1b2c3d");
  fs::copy(checkpoints() + "/step_00000001", checkpoints() + "/.trash-step_00000000");
  CheckEveryCrash(1, [&](CrashDisk*) {
    CheckpointWriter writer({.dir = checkpoints()});
    SetAside(SaveTiny(&writer, 3));
  });
}

struct Outcome {
  bool saved = false;
  ExitCode code = ExitCode::kDone;
};

Outcome TrySave(const std::string& root, int64_t step, FaultyCalls* calls, bool shards) {
  const ScopedFileCalls scope(calls);
  try {
    CheckpointWriter writer({.dir = root, .retention = {.keep_last = 1}});
    if (shards) {
      SaveInThreeShards(&writer, step);
    } else {
      SaveTiny(&writer, step);
    }
    return {.saved = true};
  } catch (const UserError& error) {
    return {.code = error.code()};
  }
}

struct Kind {
  int error;
  bool for_ever;
};

class NthCallTest : public StorageFaultTest, public ::testing::WithParamInterface<Kind> {};

// Fails every call of a save in turn. What was there stays; what was said to be saved is there; and
// the next save works.
TEST_P(NthCallTest, LeavesOldOrNewAndTheNextSaveWorks) {
  const std::string root = dir_.File("checkpoints");
  for (const bool shards : {false, true}) {
    FaultyCalls counting;
    int64_t step = shards ? 100'000 : 1;
    ASSERT_TRUE(TrySave(root, step, &counting, shards).saved);
    ASSERT_TRUE(TrySave(root, ++step, &counting, shards).saved);  // with a removal
    const int64_t calls = counting.count();
    ASSERT_GT(calls, 100);
    int64_t failed = 0;
    for (int64_t call = 1; call <= calls / 2 + 20; ++call) {
      SCOPED_TRACE(fmt::format("call {}", call));
      FaultyCalls faulty(
          {.call = call, .for_ever = GetParam().for_ever, .error = GetParam().error});
      const int64_t before = step;
      const Outcome outcome = TrySave(root, ++step, &faulty, shards);
      failed += !outcome.saved;
      if (!outcome.saved) {
        EXPECT_EQ(outcome.code, ExitCode::kCannotWrite);
      }
      const int64_t newest = NewestStep(root);
      EXPECT_TRUE(newest == step || (newest == before && !outcome.saved)) << newest;
      FaultyCalls well;
      ASSERT_TRUE(TrySave(root, ++step, &well, shards).saved);
      EXPECT_EQ(NewestStep(root), step);
      if (HasFailure()) return;
    }
    // Interruptions and short writes cost nothing, when they end; the rest does.
    const bool harmless = GetParam().error == 0;
    EXPECT_EQ(failed == 0, harmless) << failed << " of " << calls / 2;
  }
}

INSTANTIATE_TEST_SUITE_P(Errors, NthCallTest,
                         ::testing::Values(Kind{ENOSPC, false}, Kind{ENOSPC, true},
                                           Kind{EIO, false}, Kind{EIO, true}, Kind{EINTR, false},
                                           Kind{EINTR, true}, Kind{EDQUOT, false},
                                           Kind{EDQUOT, true}, Kind{0, false}, Kind{0, true}),
                         [](const auto& test) {
                           const Kind& kind = test.param;
                           const char* name = kind.error == ENOSPC   ? "NoSpace"
                                              : kind.error == EIO    ? "InputOutput"
                                              : kind.error == EINTR  ? "Interrupted"
                                              : kind.error == EDQUOT ? "Quota"
                                                                     : "ShortWrites";
                           return fmt::format("{}{}", name, kind.for_ever ? "ForEver" : "Once");
                         });

// What a disk that changes bytes on their way does to a save that is verified.
class BitFlipper : public FileCalls {
 public:
  explicit BitFlipper(std::string path) : path_(std::move(path)) {}
  int Open(const std::string& path, int flags) override {
    const int fd = FileCalls::Open(path, flags);
    if (path.find(path_) != std::string::npos) target_ = fd;
    return fd;
  }
  ssize_t WriteAt(int fd, std::span<const std::byte> bytes, int64_t offset) override {
    if (fd != target_ || offset < 4096) return FileCalls::WriteAt(fd, bytes, offset);
    std::vector<std::byte> copy(bytes.begin(), bytes.end());
    copy[copy.size() / 2] ^= std::byte{4};
    return FileCalls::WriteAt(fd, copy, offset);
  }

 private:
  const std::string path_;
  int target_ = -1;
};

TEST_F(StorageFaultTest, VerifyAfterSaveFindsWhatTheDiskChanged) {
  const std::string root = dir_.File("checkpoints");
  {
    CheckpointWriter writer({.dir = root, .verify = true});
    SaveTiny(&writer, 1);
  }
  BitFlipper flipper("shard-");
  const ScopedFileCalls scope(&flipper);
  CheckpointWriter trusting({.dir = root});
  EXPECT_NO_THROW(SaveTiny(&trusting, 5));
  RemoveCheckpoint(root + "/step_00000005");
  CheckpointWriter careful({.dir = root, .verify = true});
  try {
    SaveTiny(&careful, 2);
    FAIL() << "a changed shard was committed";
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), ExitCode::kCannotWrite);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("verification after the save"));
  }
  EXPECT_EQ(NewestStep(root), 1);
}

TEST_F(StorageFaultTest, AKeepMarkKeeps) {
  const std::string root = dir_.File("checkpoints");
  CheckpointWriter writer({.dir = root, .retention = {.keep_last = 1}});
  WriteFileAtomic(SaveTiny(&writer, 1) + "/KEEP", "");
  SaveTiny(&writer, 2);
  SaveTiny(&writer, 3);
  std::vector<int64_t> steps;
  for (const Candidate& candidate : FindCheckpoints(root)) steps.push_back(candidate.step);
  EXPECT_THAT(steps, ElementsAre(3, 1));
}

}  // namespace
}  // namespace sepia::checkpoint
