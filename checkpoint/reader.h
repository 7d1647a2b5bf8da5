// One committed checkpoint, open for reading.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"
#include "checkpoint/manifest.h"

namespace sepia::checkpoint {

// Opening checks seal, manifest, and every file's size and frame, before anything is allocated for
// tensors; reading checks the CRC32C of each chunk it touches. Damage throws BadData (exit 65)
// naming file, offset and tensor. Immutable: reading is thread-safe.
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::string& step_dir);

  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  int64_t step() const { return manifest_.step; }
  // Null for weights-only checkpoints.
  const TrainState* train_state() const { return manifest_.train ? &*manifest_.train : nullptr; }
  // The resolved TrainConfig in text format; "" when none was saved.
  const std::string& config_text() const { return manifest_.config_text; }
  void FillModelConfig(config::ModelConfig* config) const;

  // kMaster finds kWeight where no master is stored. Null when absent.
  const StoredTensor* Find(std::string_view name, Role role) const;
  // As Find, but throws BadData when absent.
  const StoredTensor& Get(std::string_view name, Role role) const;

  // Reads the tensor, or its elements `part`, into `out`, whose shape is the extent of what is
  // read and whose dtype is the stored one (same bits) or fp32 (exact widening).
  void ReadTensor(std::string_view name, Role role, TensorView out) const;
  void ReadPart(std::string_view name, Role role, const Rectangle& part, TensorView out) const;
  // Several parts of one tensor: no chunk is read twice.
  void ReadParts(std::string_view name, Role role, std::span<const PartTarget> parts) const;

  // Re-reads everything: all chunks, indexes, padding, attachments. Returns one message a fault.
  std::vector<std::string> VerifyDeep() const;

  // A file saved beside the tensors (tokenizer.json); "" when there is none.
  std::string AttachmentPath(std::string_view name) const;

 private:
  // The chunk's bytes, CRC checked, in `into`, which has its size.
  void ReadChunk(const StoredTensor& tensor, const StoredChunk& chunk,
                 std::span<std::byte> into) const;

  std::string path_;
  Manifest manifest_;
  std::vector<File> shards_;
};

}  // namespace sepia::checkpoint
