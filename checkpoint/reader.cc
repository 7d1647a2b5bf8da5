#include "checkpoint/reader.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/error.h"
#include "checkpoint/elements.h"
#include "checkpoint/shard_file.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

constexpr const char* kDamaged = "the checkpoint is damaged; use another one";

// Copies the common part of `chunk` and `wanted` from the chunk's bytes into `out`.
void CopyPart(const StoredTensor& tensor, const Rectangle& chunk, std::span<const std::byte> bytes,
              const Rectangle& wanted, TensorView out) {
  const auto size = static_cast<size_t>(DTypeSize(tensor.dtype));
  ForEachRun(Intersect(chunk, wanted), chunk, wanted, [&](int64_t from, int64_t to, int64_t count) {
    const auto run =
        bytes.subspan(static_cast<size_t>(from) * size, static_cast<size_t>(count) * size);
    if (out.dtype() == tensor.dtype) {
      std::memcpy(static_cast<std::byte*>(out.raw()) + static_cast<size_t>(to) * size, run.data(),
                  run.size());
    } else {
      WidenToFloats(tensor.dtype, run,
                    out.span<float>().subspan(static_cast<size_t>(to), static_cast<size_t>(count)));
    }
  });
}

}  // namespace

CheckpointReader::CheckpointReader(const std::string& step_dir)
    : path_(step_dir), manifest_(ReadManifest(step_dir)) {
  const int num_shards = static_cast<int>(manifest_.shards.size());
  for (const StoredShard& shard : manifest_.shards) {
    shards_.push_back(OpenShard(step_dir + "/" + shard.file,
                                {manifest_.uuid, manifest_.step, shard.writer_rank, num_shards},
                                shard));
  }
  for (const StoredAttachment& attachment : manifest_.attachments) {
    const std::string path = step_dir + "/" + attachment.file;
    if (File::OpenForRead(path).Size() != attachment.bytes) {
      throw BadData(path, -1, fmt::format("has not the {} bytes that were saved", attachment.bytes),
                    kDamaged);
    }
  }
}

void CheckpointReader::FillModelConfig(config::ModelConfig* config) const {
  *config = *manifest_.model;
}

const StoredTensor* CheckpointReader::Find(std::string_view name, Role role) const {
  const auto& tensors = manifest_.tensors;
  const auto found =
      std::lower_bound(tensors.begin(), tensors.end(), std::pair(name, role),
                       [](const StoredTensor& tensor, const auto& wanted) {
                         return std::pair(std::string_view(tensor.name), tensor.role) < wanted;
                       });
  if (found != tensors.end() && found->name == name && found->role == role) return &*found;
  return role == Role::kMaster ? Find(name, Role::kWeight) : nullptr;
}

const StoredTensor& CheckpointReader::Get(std::string_view name, Role role) const {
  const StoredTensor* tensor = Find(name, role);
  if (tensor == nullptr) {
    throw BadData(path_, -1, fmt::format("has no {} of tensor '{}'", RoleName(role), name));
  }
  return *tensor;
}

void CheckpointReader::ReadTensor(std::string_view name, Role role, TensorView out) const {
  ReadPart(name, role, Rectangle::Whole(Get(name, role).shape), out);
}

void CheckpointReader::ReadPart(std::string_view name, Role role, const Rectangle& part,
                                TensorView out) const {
  const PartTarget target{part, out};
  ReadParts(name, role, {&target, 1});
}

void CheckpointReader::ReadParts(std::string_view name, Role role,
                                 std::span<const PartTarget> parts) const {
  const StoredTensor& tensor = Get(name, role);
  for (const PartTarget& target : parts) {
    CHECK(target.part.Inside(tensor.shape), "{} of tensor '{}'", target.part.ToString(), name);
    CHECK_EQ(target.out.shape(), target.part.extent);
    CHECK(target.out.dtype() == tensor.dtype || target.out.dtype() == DType::kFloat32);
  }
  std::vector<std::byte> bytes;
  for (const StoredChunk& chunk : tensor.chunks) {
    const auto overlaps = [&](const PartTarget& target) {
      return chunk.part.Overlaps(target.part);
    };
    if (std::none_of(parts.begin(), parts.end(), overlaps)) continue;
    bytes.resize(static_cast<size_t>(chunk.part.num_elements() * DTypeSize(tensor.dtype)));
    ReadChunk(tensor, chunk, bytes);
    for (const PartTarget& target : parts) {
      if (overlaps(target)) CopyPart(tensor, chunk.part, bytes, target.part, target.out);
    }
  }
}

void CheckpointReader::ReadChunk(const StoredTensor& tensor, const StoredChunk& chunk,
                                 std::span<std::byte> into) const {
  const File& file = shards_[static_cast<size_t>(chunk.shard)];
  file.ReadAt(chunk.offset, into);
  if (Crc32c(into) != chunk.crc32c) {
    throw BadData(
        file.path(), chunk.offset,
        fmt::format("the CRC32C of {} bytes does not match: {} of tensor '{}', part {}",
                    into.size(), RoleName(tensor.role), tensor.name, chunk.part.ToString()),
        kDamaged);
  }
}

std::vector<std::string> CheckpointReader::VerifyDeep() const {
  std::vector<std::string> faults;
  const auto note = [&](const auto& check) {
    try {
      check();
    } catch (const UserError& error) {
      faults.push_back(error.what());
    }
  };
  std::vector<std::byte> bytes;
  for (const StoredTensor& tensor : manifest_.tensors) {
    for (const StoredChunk& chunk : tensor.chunks) {
      bytes.resize(static_cast<size_t>(chunk.part.num_elements() * DTypeSize(tensor.dtype)));
      note([&] { ReadChunk(tensor, chunk, bytes); });
    }
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    note([&] { VerifyShardLayout(shards_[i], manifest_, static_cast<int>(i), &faults); });
  }
  for (const StoredAttachment& attachment : manifest_.attachments) {
    note([&] {
      const std::string path = path_ + "/" + attachment.file;
      const std::string content = ReadFile(path);
      if (Crc32c(std::as_bytes(std::span(content))) != attachment.crc32c) {
        throw BadData(path, -1, "its CRC32C does not match", kDamaged);
      }
    });
  }
  return faults;
}

std::string CheckpointReader::AttachmentPath(std::string_view name) const {
  for (const StoredAttachment& attachment : manifest_.attachments) {
    if (attachment.file == name) return path_ + "/" + attachment.file;
  }
  return "";
}

}  // namespace sepia::checkpoint
