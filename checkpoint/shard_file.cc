#include "checkpoint/shard_file.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/buffer.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/integer.h"
#include "checkpoint/import/hf_layout.h"

namespace sepia::checkpoint {
namespace {

constexpr char kHeaderMagic[8] = {'S', 'E', 'P', 'S', 'H', 'R', 'D', '\0'};
constexpr char kTrailerMagic[8] = {'S', 'E', 'P', 'S', 'E', 'N', 'D', '\0'};
constexpr uint32_t kVersion = 1;
constexpr const char* kDamaged = "the checkpoint is damaged; use another one";

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t rank;
  uint32_t num_shards;
  uint32_t reserved;
  Uuid uuid;
  uint64_t step;
  std::array<uint8_t, 12> zero;
  uint32_t crc32c;  // of all before it
};
static_assert(sizeof(Header) == kShardHeaderBytes);

struct Trailer {
  char magic[8];
  uint64_t index_offset;
  uint64_t index_bytes;
  uint32_t index_crc32c;
  uint32_t crc32c;  // of all before it
};
static_assert(sizeof(Trailer) == kShardTrailerBytes);

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <typename T>
uint32_t CrcBeforeCrc(const T& value) {
  return Crc32c(BytesOf(value).first(offsetof(T, crc32c)));
}

Header MakeHeader(const ShardIdentity& identity) {
  Header header{};
  std::memcpy(header.magic, kHeaderMagic, sizeof(kHeaderMagic));
  header.version = kVersion;
  header.rank = static_cast<uint32_t>(identity.rank);
  header.num_shards = static_cast<uint32_t>(identity.num_shards);
  header.uuid = identity.uuid;
  header.step = static_cast<uint64_t>(identity.step);
  header.crc32c = CrcBeforeCrc(header);
  return header;
}

// Gives every tensor its chunks' places. Returns the end of the last chunk.
int64_t PlaceChunks(std::span<const CheckpointTensor> tensors, int shard,
                    std::vector<StoredTensor>* stored) {
  int64_t offset = RoundUp(kShardHeaderBytes, kChunkAlignment);
  for (const CheckpointTensor& source : tensors) {
    const NamedTensor& tensor = source.tensor;
    const DType dtype = tensor.view.dtype();
    StoredTensor place{tensor.name, source.role, dtype, tensor.global_shape, {}};
    const Rectangle whole{tensor.offset, tensor.view.shape()};
    CHECK(whole.Inside(tensor.global_shape), "tensor '{}'", tensor.name);
    for (Rectangle& part : CutIntoChunks(tensor.name, tensor.global_shape, whole, dtype)) {
      const int64_t bytes = part.num_elements() * DTypeSize(dtype);
      place.chunks.push_back({shard, offset, 0, std::move(part)});
      offset = RoundUp(offset + bytes, kChunkAlignment);
    }
    stored->push_back(std::move(place));
  }
  return offset;
}

// The chunk's bytes: where the tensor has them in one piece, or gathered or read into `scratch`.
std::span<const std::byte> ChunkBytes(const CheckpointTensor& source, const Rectangle& part,
                                      Buffer* scratch) {
  const TensorView& view = source.tensor.view;
  const auto size = static_cast<size_t>(DTypeSize(view.dtype()));
  const size_t bytes = static_cast<size_t>(part.num_elements()) * size;
  if (scratch->size() == 0) *scratch = Buffer(kMaxChunkBytes, "a checkpoint chunk");
  if (source.read) {
    source.read(part, TensorView(scratch->data(), view.dtype(), part.extent));
    return {scratch->data(), bytes};
  }
  CHECK(view.raw() != nullptr && view.device() == Device::kCpu, "tensor '{}' has no host data",
        source.tensor.name);
  const auto* data = static_cast<const std::byte*>(view.raw());
  std::span<const std::byte> in_place;
  ForEachRun(part, {source.tensor.offset, view.shape()}, part,
             [&](int64_t from, int64_t to, int64_t count) {
               const std::byte* run = data + static_cast<size_t>(from) * size;
               const size_t run_bytes = static_cast<size_t>(count) * size;
               if (run_bytes == bytes) {
                 in_place = {run, bytes};
               } else {
                 std::memcpy(scratch->data() + static_cast<size_t>(to) * size, run, run_bytes);
               }
             });
  return in_place.empty() ? std::span<const std::byte>(scratch->data(), bytes) : in_place;
}

// The disk works while the next chunks are gathered and summed; without this it would wait for the
// sync at the end. Only a hint: its failure means nothing.
class EarlyWriteback {
 public:
  explicit EarlyWriteback(const File& file) : file_(file) {}

  // The file is written up to `end`.
  void Reached(int64_t end) {
    constexpr int64_t kStride = 16 << 20;
    if (end - begun_ < kStride) return;
    sync_file_range(file_.fd(), begun_, end - begun_, SYNC_FILE_RANGE_WRITE);
    begun_ = end;
  }

 private:
  const File& file_;
  int64_t begun_ = 0;
};

void WriteChunks(std::span<const CheckpointTensor> tensors, File* file,
                 std::vector<StoredTensor>* stored) {
  Buffer scratch;
  EarlyWriteback writeback(*file);
  for (size_t i = 0; i < tensors.size(); ++i) {
    for (StoredChunk& chunk : (*stored)[i].chunks) {
      const auto bytes = ChunkBytes(tensors[i], chunk.part, &scratch);
      chunk.crc32c = Crc32c(bytes);
      file->WriteAt(chunk.offset, bytes);
      writeback.Reached(chunk.offset + static_cast<int64_t>(bytes.size()));
    }
  }
}

// The trailer of an open shard, its CRC and range checked.
Trailer ReadTrailer(const File& file, int64_t file_bytes) {
  Trailer trailer;
  const int64_t begin = file_bytes - kShardTrailerBytes;
  file.ReadAt(begin, std::as_writable_bytes(std::span(&trailer, 1)));
  const bool whole = std::memcmp(trailer.magic, kTrailerMagic, sizeof(kTrailerMagic)) == 0 &&
                     trailer.crc32c == CrcBeforeCrc(trailer);
  const auto end = static_cast<uint64_t>(begin);
  if (!whole || trailer.index_offset > end || trailer.index_bytes != end - trailer.index_offset) {
    throw BadData(file.path(), begin, "the trailer is damaged", kDamaged);
  }
  return trailer;
}

bool AllZero(const File& file, int64_t begin, int64_t end) {
  std::vector<std::byte> block(static_cast<size_t>(end - begin));
  file.ReadAt(begin, block);
  return std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{0}; });
}

// Cuts `part` along `dim` at the multiples of `block`.
std::vector<Rectangle> CutAtMultiples(const Rectangle& part, int dim, int64_t block) {
  const auto d = static_cast<size_t>(dim);
  const int64_t end = part.offset[d] + part.extent[dim];
  std::vector<Rectangle> pieces;
  for (int64_t begin = part.offset[d]; begin < end;) {
    const int64_t next = std::min(end, (begin / block + 1) * block);
    std::vector<int64_t> extent(part.extent.dims().begin(), part.extent.dims().end());
    extent[d] = next - begin;
    Rectangle piece{part.offset, Shape(std::span<const int64_t>(extent))};
    piece.offset[d] = begin;
    pieces.push_back(std::move(piece));
    begin = next;
  }
  return pieces;
}

}  // namespace

std::vector<Rectangle> CutIntoChunks(const std::string& name, const Shape& global_shape,
                                     const Rectangle& part, DType dtype) {
  constexpr int64_t kReaders = 8;
  // Smaller chunks would be padding for a good part.
  constexpr int64_t kFewestBytes = 64 << 10;
  const int64_t size = DTypeSize(dtype);
  const int64_t bytes = global_shape.num_elements() * size;
  // A slice of ZeRO begins and ends inside a chunk of every bucket.
  const int64_t most = std::clamp<int64_t>(bytes / 64, 2 * kFewestBytes, 1 << 20);
  const int dim = IsCutAlongColumns(name) ? 1 : 0;
  if (global_shape.rank() != 2 || global_shape[dim] % kReaders != 0 ||
      bytes / kReaders < kFewestBytes) {
    return SplitContiguously(part, most / size);
  }
  std::vector<Rectangle> chunks;
  for (const Rectangle& block : CutAtMultiples(part, dim, global_shape[dim] / kReaders)) {
    const std::vector<Rectangle> pieces = SplitContiguously(block, most / size);
    chunks.insert(chunks.end(), pieces.begin(), pieces.end());
  }
  return chunks;
}

std::string ShardFileName(int rank, int num_shards) {
  return fmt::format("shard-{:05}-of-{:05}.sck", rank, num_shards);
}

StoredShard WriteShard(const std::string& path, const ShardIdentity& identity,
                       std::span<const CheckpointTensor> tensors,
                       std::vector<StoredTensor>* stored) {
  CHECK(stored->empty());
  const int64_t index_offset = PlaceChunks(tensors, identity.rank, stored);
  File file = File::Create(path);
  file.Preallocate(index_offset);
  const Header header = MakeHeader(identity);
  file.WriteAt(0, BytesOf(header));
  WriteChunks(tensors, &file, stored);

  const std::string index = EncodeShardIndex(*stored);
  Trailer trailer{};
  std::memcpy(trailer.magic, kTrailerMagic, sizeof(kTrailerMagic));
  trailer.index_offset = static_cast<uint64_t>(index_offset);
  trailer.index_bytes = index.size();
  trailer.index_crc32c = Crc32c(std::as_bytes(std::span(index)));
  trailer.crc32c = CrcBeforeCrc(trailer);
  const auto trailer_offset = index_offset + static_cast<int64_t>(index.size());
  file.WriteAt(index_offset, std::as_bytes(std::span(index)));
  file.WriteAt(trailer_offset, BytesOf(trailer));
  file.Sync();
  file.Close();
  return {ShardFileName(identity.rank, identity.num_shards), trailer_offset + kShardTrailerBytes,
          identity.rank, trailer.index_crc32c};
}

File OpenShard(const std::string& path, const ShardIdentity& identity, const StoredShard& shard) {
  File file = File::OpenForRead(path);
  if (const int64_t size = file.Size(); size != shard.bytes) {
    throw BadData(path, std::min(size, shard.bytes),
                  fmt::format("has {} bytes, the manifest records {}", size, shard.bytes),
                  "the checkpoint is damaged or incompletely copied; use another one");
  }
  Header header;
  file.ReadAt(0, std::as_writable_bytes(std::span(&header, 1)));
  if (std::memcmp(header.magic, kHeaderMagic, sizeof(kHeaderMagic)) != 0 ||
      header.crc32c != CrcBeforeCrc(header)) {
    throw BadData(path, 0, "the header is damaged", kDamaged);
  }
  const Header expected = MakeHeader(identity);
  if (std::memcmp(&header, &expected, sizeof(Header)) != 0) {
    throw BadData(path, 0, "belongs to another checkpoint",
                  fmt::format("step {} rank {} is recorded here; put the right file back",
                              header.step, header.rank));
  }
  if (ReadTrailer(file, shard.bytes).index_crc32c != shard.index_crc32c) {
    throw BadData(path, shard.bytes - kShardTrailerBytes,
                  "its index is not the one that the manifest records", kDamaged);
  }
  return file;
}

void RereadShard(const std::string& path, const ShardIdentity& identity, const StoredShard& shard,
                 std::span<const StoredTensor> stored) {
  try {
    const File file = OpenShard(path, identity, shard);
    // The pages are clean after the sync: what is read now comes from the disk.
    posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
    std::vector<std::byte> bytes;
    for (const StoredTensor& tensor : stored) {
      for (const StoredChunk& chunk : tensor.chunks) {
        bytes.resize(static_cast<size_t>(chunk.part.num_elements() * DTypeSize(tensor.dtype)));
        file.ReadAt(chunk.offset, bytes);
        if (Crc32c(bytes) == chunk.crc32c) continue;
        throw BadData(path, chunk.offset,
                      fmt::format("{} of tensor '{}' is not what was written",
                                  RoleName(tensor.role), tensor.name),
                      "check the disk and the machine's memory");
      }
    }
  } catch (const UserError& error) {
    throw UserError(ExitCode::kCannotWrite,
                    fmt::format("verification after the save: {}", error.what()));
  }
}

void VerifyShardLayout(const File& file, const Manifest& manifest, int shard,
                       std::vector<std::string>* faults) {
  const Trailer trailer = ReadTrailer(file, manifest.shards[static_cast<size_t>(shard)].bytes);
  const auto index_offset = static_cast<int64_t>(trailer.index_offset);
  std::vector<std::byte> index(trailer.index_bytes);
  file.ReadAt(index_offset, index);
  if (Crc32c(index) != trailer.index_crc32c) {
    faults->push_back(
        BadData(file.path(), index_offset, "the index's CRC32C does not match").what());
  }
  std::vector<std::pair<int64_t, int64_t>> ranges = {{0, kShardHeaderBytes}};
  for (const StoredTensor& tensor : manifest.tensors) {
    for (const StoredChunk& chunk : tensor.chunks) {
      if (chunk.shard != shard) continue;
      ranges.emplace_back(chunk.offset,
                          chunk.offset + chunk.part.num_elements() * DTypeSize(tensor.dtype));
    }
  }
  std::sort(ranges.begin(), ranges.end());
  ranges.emplace_back(index_offset, index_offset);
  for (size_t i = 1; i < ranges.size(); ++i) {
    const auto [begin, end] = std::pair(ranges[i - 1].second, ranges[i].first);
    if (end < begin || end - begin >= kChunkAlignment) {
      faults->push_back(BadData(file.path(), begin, "chunks overlap or leave a gap").what());
    } else if (!AllZero(file, begin, end)) {
      faults->push_back(
          BadData(file.path(), begin, "the padding between chunks is not zero").what());
    }
  }
}

}  // namespace sepia::checkpoint
