// One shard: header (64 bytes) | chunks, each at a multiple of 4096 | index | trailer (32 bytes).
// Written by one rank, read by any. Layout: docs/formats/checkpoint.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/manifest.h"

namespace sepia::checkpoint {

inline constexpr int64_t kChunkAlignment = 4096;
inline constexpr int64_t kMaxChunkBytes = 8 << 20;  // that a reader must expect
inline constexpr int64_t kShardHeaderBytes = 64;
inline constexpr int64_t kShardTrailerBytes = 32;

// What ties a shard to its checkpoint: shards of two saves are never mixed up.
struct ShardIdentity {
  Uuid uuid{};
  int64_t step = 0;
  int rank = 0;
  int num_shards = 1;
};

// Cuts the rectangle of a tensor into the chunks that are written. Matrices are cut where eight
// tensor-parallel ranks would cut them (by columns or rows), then to 128 KiB ... 1 MiB by size, so
// that a rank of any layout of up to eight reads little more than its own elements.
std::vector<Rectangle> CutIntoChunks(const std::string& name, const Shape& global_shape,
                                     const Rectangle& part, DType dtype);

// "shard-00003-of-00008.sck"
std::string ShardFileName(int rank, int num_shards);

// Writes `tensors` to `path`, synced, with space reserved first. Fills each tensor's chunks with
// places and CRCs taken from the source before it is written. Returns the manifest's entry.
StoredShard WriteShard(const std::string& path, const ShardIdentity& identity,
                       std::span<const CheckpointTensor> tensors,
                       std::vector<StoredTensor>* stored);

// Opens a shard and checks size, header and trailer. Throws BadData.
File OpenShard(const std::string& path, const ShardIdentity& identity, const StoredShard& shard);

// Reads a shard that was just written back from the disk and compares every chunk with `stored`.
// Throws CannotWrite-class errors (73): the save has failed.
void RereadShard(const std::string& path, const ShardIdentity& identity, const StoredShard& shard,
                 std::span<const StoredTensor> stored);

// Deep check: index, and that everything between the chunks is zero. Appends each fault's message.
void VerifyShardLayout(const File& file, const Manifest& manifest, int shard,
                       std::vector<std::string>* faults);

}  // namespace sepia::checkpoint
