// The manifest in memory: what a checkpoint consists of and where every byte lies.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "checkpoint/checkpoint_tensor.h"
#include "checkpoint/rectangle.h"
#include "checkpoint/train_state.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

using Uuid = std::array<uint8_t, 16>;

struct StoredChunk {
  int shard = 0;  // into Manifest::shards
  int64_t offset = 0;
  uint32_t crc32c = 0;
  Rectangle part;  // of the global tensor
};

struct StoredTensor {
  std::string name;
  Role role = Role::kMaster;
  DType dtype = DType::kFloat32;
  Shape shape;
  std::vector<StoredChunk> chunks;

  int64_t num_bytes() const { return shape.num_elements() * DTypeSize(dtype); }
};

struct StoredShard {
  std::string file;
  int64_t bytes = 0;
  int writer_rank = 0;
  uint32_t index_crc32c = 0;
};

struct StoredAttachment {
  std::string file;
  int64_t bytes = 0;
  uint32_t crc32c = 0;
};

struct Manifest {
  Uuid uuid{};
  int64_t created_unix = 0;
  int64_t step = 0;
  std::shared_ptr<const config::ModelConfig> model;  // never null
  std::optional<TrainState> train;
  std::string config_text;
  std::string build;  // "0.1.0, GCC 12.2": for people
  std::vector<StoredShard> shards;
  std::vector<StoredTensor> tensors;  // by (name, role)
  std::vector<StoredAttachment> attachments;
};

// The bytes of MANIFEST.pb and of the COMMIT that seals it.
struct SealedManifest {
  std::string manifest;
  std::string commit;
};
SealedManifest SealManifest(const Manifest& manifest);

// Reads and checks both files of a step directory: frames, seal, version, and that the chunks of
// every tensor lie inside their shards and tile it. Throws BadData.
Manifest ReadManifest(const std::string& step_dir);

// The step that COMMIT in `step_dir` seals; cheap. Throws BadData.
int64_t ReadCommittedStep(const std::string& step_dir);

// The index at the end of a shard file: the tensors with their chunks there.
std::string EncodeShardIndex(const std::vector<StoredTensor>& tensors);

// A shard that was written, and the tensors with their chunks in it, on the way to the process that
// writes the manifest.
struct ShardReport {
  StoredShard shard;
  std::vector<StoredTensor> tensors;
};
std::string EncodeShardReport(const ShardReport& report);
// Of bytes that EncodeShardReport made.
ShardReport DecodeShardReport(const std::string& bytes);

}  // namespace sepia::checkpoint
