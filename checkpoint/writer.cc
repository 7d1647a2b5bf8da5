#include "checkpoint/writer.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <random>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/file_name.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard_file.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

// Not for reproducibility but for telling saves apart: never seeded.
Uuid RandomUuid() {
  std::random_device device;
  Uuid uuid;
  for (uint8_t& byte : uuid) byte = static_cast<uint8_t>(device());
  return uuid;
}

// Rectangles of one (name, role) become one tensor; the result is sorted by (name, role).
std::vector<StoredTensor> Merge(std::vector<StoredTensor> parts) {
  std::map<std::pair<std::string, Role>, StoredTensor> merged;
  for (StoredTensor& part : parts) {
    const auto [place, is_new] = merged.try_emplace({part.name, part.role}, part);
    if (is_new) continue;
    StoredTensor& tensor = place->second;
    CHECK(tensor.shape == part.shape && tensor.dtype == part.dtype, "tensor '{}'", part.name);
    std::move(part.chunks.begin(), part.chunks.end(), std::back_inserter(tensor.chunks));
  }
  std::vector<StoredTensor> tensors;
  for (auto& [key, tensor] : merged) tensors.push_back(std::move(tensor));
  return tensors;
}

void WriteSynced(const std::string& path, std::string_view content) {
  File file = File::Create(path);
  file.Write(content);
  file.Sync();
  file.Close();
}

void MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0777) != 0) throw CannotWrite(path, errno);
  SyncDirectory(DirectoryOf(path));
}

bool ExchangePaths(const std::string& a, const std::string& b) {
  return syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

// Logs instead of throwing: for what follows the commit.
template <typename Action>
void WarnOnly(const char* what, const Action& action) {
  try {
    action();
  } catch (const UserError& error) {
    LogWarn("{}: {}", what, error.what());
  }
}

}  // namespace

CheckpointWriter::CheckpointWriter(CheckpointWriterOptions options) : options_(std::move(options)) {
  CreateDirectories(options_.dir);
  SweepLeftovers(options_.dir);
}

void CheckpointWriter::Stage(std::string_view name) const {
  if (options_.before_stage) options_.before_stage(name);
}

std::string CheckpointWriter::Save(const CheckpointContents& contents) {
  CHECK(contents.model != nullptr);
  const std::string final_path = options_.dir + "/" + StepDirectoryName(contents.step);
  const std::string temporary = fmt::format("{}.tmp-{:08x}", final_path, std::random_device()());
  try {
    Stage("make directory");
    MakeDirectory(temporary);
    WriteFiles(temporary, contents);
    Publish(temporary, final_path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
    throw;
  }
  WarnOnly("the LATEST hint was not moved", [&] {
    Stage("hint");
    WriteFileAtomic(options_.dir + "/LATEST", StepDirectoryName(contents.step) + "\n");
  });
  WarnOnly("old checkpoints were not removed", [&] {
    Stage("retention");
    ApplyRetention(options_.dir, options_.retention, contents.step);
  });
  return final_path;
}

void CheckpointWriter::WriteFiles(const std::string& directory,
                                  const CheckpointContents& contents) const {
  Manifest manifest;
  manifest.uuid = RandomUuid();
  manifest.created_unix = static_cast<int64_t>(WallSeconds());
  manifest.step = contents.step;
  manifest.model = std::make_shared<config::ModelConfig>(*contents.model);
  manifest.config_text = contents.config_text;
  if (contents.train_state != nullptr) manifest.train = *contents.train_state;

  Stage("attachments");
  for (const Attachment& attachment : contents.attachments) {
    CHECK(IsPlainFileName(attachment.name), "attachment {}", attachment.name);
    WriteSynced(directory + "/" + attachment.name, attachment.content);
    manifest.attachments.push_back({attachment.name,
                                    static_cast<int64_t>(attachment.content.size()),
                                    Crc32c(std::as_bytes(std::span(attachment.content)))});
  }
  Stage("shard");
  std::vector<StoredTensor> parts;
  manifest.shards.push_back(WriteShard(directory + "/" + ShardFileName(0, 1),
                                       {manifest.uuid, contents.step, 0, 1}, contents.tensors,
                                       &parts));
  manifest.tensors = Merge(std::move(parts));
  const SealedManifest sealed = SealManifest(manifest);
  Stage("manifest");
  WriteSynced(directory + "/MANIFEST.pb", sealed.manifest);
  SyncDirectory(directory);
  Stage("commit");
  WriteFileAtomic(directory + "/COMMIT", sealed.commit);
}

void CheckpointWriter::Publish(const std::string& temporary, const std::string& final_path) const {
  Stage("rename");
  if (!FileExists(final_path)) {
    RenameNoReplace(temporary, final_path);
  } else {
    // A run that resumed from an earlier step comes by here again.
    if (!ExchangePaths(temporary, final_path)) {  // not on every file system
      RemoveCheckpoint(final_path);
      RenameNoReplace(temporary, final_path);
    } else {
      std::error_code ignored;
      std::filesystem::remove_all(temporary, ignored);
    }
  }
  Stage("sync parent");
  SyncDirectory(options_.dir);
}

}  // namespace sepia::checkpoint
