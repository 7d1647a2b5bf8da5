#include "checkpoint/writer.h"

#include <algorithm>
#include <map>
#include <random>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/directory.h"
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

std::string WriteShardOf(const SaveAttempt& attempt, int rank,
                         std::span<const CheckpointTensor> tensors, bool verify) {
  const ShardIdentity identity{attempt.uuid, attempt.step, rank, attempt.num_shards};
  const std::string path = attempt.directory + "/" + ShardFileName(rank, attempt.num_shards);
  ShardReport report;
  MakeDirectory(attempt.directory);
  report.shard = WriteShard(path, identity, tensors, &report.tensors);
  if (verify) RereadShard(path, identity, report.shard, report.tensors);
  return EncodeShardReport(report);
}

std::string CheckpointWriter::Save(const CheckpointContents& contents) {
  const SaveAttempt attempt = Begin(contents.step, /*num_shards=*/1);
  std::string report;
  try {
    Stage("make directory");
    Stage("shard");
    report = WriteShardOf(attempt, /*rank=*/0, contents.tensors, options_.verify);
  } catch (...) {
    Abandon(attempt);
    throw;
  }
  return Commit(attempt, contents, {&report, 1});
}

SaveAttempt CheckpointWriter::Begin(int64_t step, int num_shards) const {
  const std::string final_path = options_.dir + "/" + StepDirectoryName(step);
  return {.directory = fmt::format("{}.tmp-{:08x}", final_path, std::random_device()()),
          .uuid = RandomUuid(),
          .step = step,
          .num_shards = num_shards};
}

void CheckpointWriter::Abandon(const SaveAttempt& attempt) const {
  WarnOnly("an attempt to save left files", [&] { RemoveTree(attempt.directory); });
}

std::string CheckpointWriter::Commit(const SaveAttempt& attempt, const CheckpointContents& contents,
                                     std::span<const std::string> reports) const {
  CHECK(contents.model != nullptr && contents.step == attempt.step);
  CHECK_EQ(static_cast<int>(reports.size()), attempt.num_shards);
  const std::string final_path = options_.dir + "/" + StepDirectoryName(attempt.step);
  try {
    WriteManifest(attempt, contents, reports);
    if (options_.verify) ReadManifest(attempt.directory);
    Publish(attempt.directory, final_path);
  } catch (...) {
    Abandon(attempt);
    throw;
  }
  WarnOnly("the LATEST hint was not moved", [&] {
    Stage("hint");
    WriteFileAtomic(options_.dir + "/LATEST", StepDirectoryName(attempt.step) + "\n");
  });
  WarnOnly("old checkpoints were not removed", [&] {
    Stage("retention");
    ApplyRetention(options_.dir, options_.retention, attempt.step);
  });
  return final_path;
}

void CheckpointWriter::WriteManifest(const SaveAttempt& attempt, const CheckpointContents& contents,
                                     std::span<const std::string> reports) const {
  const std::string& directory = attempt.directory;
  Manifest manifest;
  manifest.uuid = attempt.uuid;
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
  std::vector<StoredTensor> parts;
  for (const std::string& bytes : reports) {
    ShardReport report = DecodeShardReport(bytes);
    manifest.shards.push_back(std::move(report.shard));
    std::move(report.tensors.begin(), report.tensors.end(), std::back_inserter(parts));
  }
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
  // A run that resumed from an earlier step comes by an existing one again.
  const bool replaces = FileExists(final_path);
  const bool exchanged = replaces && ExchangePaths(temporary, final_path);
  if (replaces && !exchanged) RemoveCheckpoint(final_path);  // a file system that cannot exchange
  if (!exchanged) RenameNoReplace(temporary, final_path);
  Stage("sync parent");
  SyncDirectory(options_.dir);
  // Only now: after a crash the old one may still be the one under the name.
  if (exchanged) {
    WarnOnly("the checkpoint that was replaced left files", [&] { RemoveTree(temporary); });
  }
}

}  // namespace sepia::checkpoint
