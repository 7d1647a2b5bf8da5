#include "data/indexed_dataset.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "base/check.h"
#include "base/error.h"
#include "data/bin_shards.h"
#include "data/indexed_dataset_format.h"

namespace sepia::data {
namespace {

// The arrays of an .idx are not aligned.
template <typename T>
T Load(std::span<const std::byte> bytes, int64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// Position of the first id that is no valid token, if any. `bytes` holds tokens of type T.
template <typename T>
std::optional<size_t> Widen(std::span<const std::byte> bytes, std::span<int32_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    const auto wide = static_cast<int64_t>(value);
    if (wide < 0 || wide > std::numeric_limits<int32_t>::max()) return i;
    tokens[i] = static_cast<int32_t>(wide);
  }
  return std::nullopt;
}

std::optional<size_t> Widen(DType dtype, std::span<const std::byte> bytes,
                            std::span<int32_t> tokens) {
  switch (dtype) {
    case DType::kUInt8: return Widen<uint8_t>(bytes, tokens);
    case DType::kInt8: return Widen<int8_t>(bytes, tokens);
    case DType::kInt16: return Widen<int16_t>(bytes, tokens);
    case DType::kUInt16: return Widen<uint16_t>(bytes, tokens);
    case DType::kInt32: return Widen<int32_t>(bytes, tokens);
    case DType::kInt64: return Widen<int64_t>(bytes, tokens);
    default: break;
  }
  throw InternalError("a dataset of a type that is never opened");
}

}  // namespace

IndexedDataset::IndexedDataset(const std::string& prefix) : prefix_(prefix), idx_(idx_path()) {
  ParseHeader();
  OpenBin();
  CheckSequences();
  CheckDocumentIndex();
}

void IndexedDataset::ParseHeader() {
  const std::span<const std::byte> bytes = idx_.bytes();
  const char* remedy = "not an index of a GPT-NeoX or Megatron dataset, or damaged";
  if (idx_.size() < kIdxHeaderBytes) {
    throw BadData(idx_path(), idx_.size(),
                  fmt::format("the file ends inside the {}-byte header", kIdxHeaderBytes), remedy);
  }
  if (std::memcmp(bytes.data(), kIdxMagic.data(), kIdxMagic.size()) != 0) {
    throw BadData(idx_path(), 0, "does not start with MMIDIDX", remedy);
  }
  const auto version = Load<uint64_t>(bytes, kIdxVersionOffset);
  if (version != kIdxVersion) {
    throw BadData(idx_path(), kIdxVersionOffset, fmt::format("version {}, expected 1", version));
  }
  const auto code = Load<uint8_t>(bytes, kIdxTypeOffset);
  const std::optional<DType> dtype = IdxDType(code);
  if (!dtype) {
    throw BadData(idx_path(), kIdxTypeOffset,
                  fmt::format("element type {} is {}", code,
                              code == 6 || code == 7 ? "floating point" : "unknown"),
                  "token ids are integers: types 1 to 5 and 8");
  }
  dtype_ = *dtype;

  const auto sequences = Load<uint64_t>(bytes, kIdxSequencesOffset);
  const auto documents = Load<uint64_t>(bytes, kIdxDocumentsOffset);
  const auto room = static_cast<uint64_t>(idx_.size() - kIdxHeaderBytes);
  // Bounds first: the products below cannot overflow then.
  const bool fits = sequences <= room / 12 && documents <= room / 8;
  const uint64_t plain = fits ? 12 * sequences + 8 * documents : 0;
  // Megatron-core's multimodal datasets append one mode byte a sequence.
  if (!fits || (room != plain && room != plain + sequences)) {
    throw BadData(idx_path(), kIdxSequencesOffset,
                  fmt::format("{} sequences and {} document entries do not fit a file of {} bytes",
                              sequences, documents, idx_.size()),
                  "the file is truncated or damaged");
  }
  num_sequences_ = static_cast<int64_t>(sequences);
  num_document_entries_ = static_cast<int64_t>(documents);
}

void IndexedDataset::OpenBin() {
  int64_t begin = 0;
  for (const std::string& path : FindBinFiles(prefix_)) {
    File file = File::OpenForRead(path);
    const int64_t end = begin + file.Size();
    shards_.push_back({std::move(file), begin, end});
    begin = end;
  }
}

void IndexedDataset::CheckSequences() {
  const int64_t item = DTypeSize(dtype_);
  const int64_t bin_bytes = shards_.back().end;
  int64_t end = 0;
  for (int64_t i = 0; i < num_sequences_; ++i) {
    const int64_t size_offset = kIdxHeaderBytes + 4 * i;
    const int64_t pointer_offset = kIdxHeaderBytes + 4 * num_sequences_ + 8 * i;
    const auto size = Load<int32_t>(idx_.bytes(), size_offset);
    const auto pointer = Load<int64_t>(idx_.bytes(), pointer_offset);
    if (size < 0) {
      throw BadData(idx_path(), size_offset, fmt::format("sequence {} has {} tokens", i, size));
    }
    if (pointer != end) {
      throw BadData(
          idx_path(), pointer_offset,
          fmt::format("sequence {} starts at byte {} of the .bin, expected {}", i, pointer, end));
    }
    if (size > (bin_bytes - end) / item) {
      throw BadData(idx_path(), size_offset,
                    fmt::format("sequence {} of {} tokens reaches past the end of the .bin "
                                "({} bytes)",
                                i, size, bin_bytes),
                    "the .bin is truncated, or belongs to another .idx");
    }
    end += size * item;
  }
  if (end != bin_bytes) {
    throw BadData(shards_.back().file.path(), -1,
                  fmt::format("{} bytes, but {} describes {}", bin_bytes, idx_path(), end),
                  "the .bin belongs to another .idx, or one of the two is damaged");
  }
  num_tokens_ = end / item;
}

void IndexedDataset::CheckDocumentIndex() const {
  const int64_t base = kIdxHeaderBytes + 12 * num_sequences_;
  int64_t previous = 0;
  for (int64_t i = 0; i < num_document_entries_; ++i) {
    const int64_t entry = document_entry(i);
    const bool valid = i == 0 ? entry == 0 : entry >= previous && entry <= num_sequences_;
    if (!valid) {
      throw BadData(idx_path(), base + 8 * i,
                    fmt::format("entry {} of the document index is {}; entries rise from 0 to {}",
                                i, entry, num_sequences_));
    }
    previous = entry;
  }
  // merge_file_ of GPT-NeoX v1.0 leaves the document index at [0].
  const bool merged = num_document_entries_ == 1;
  if (!merged && previous != num_sequences_) {
    throw BadData(
        idx_path(), base + 8 * num_document_entries_,
        fmt::format("the document index ends at {}, expected {}", previous, num_sequences_));
  }
}

int32_t IndexedDataset::size(int64_t sequence) const {
  CHECK(sequence >= 0 && sequence < num_sequences_, "sequence {} of {}", sequence, num_sequences_);
  return Load<int32_t>(idx_.bytes(), kIdxHeaderBytes + 4 * sequence);
}

SequenceSizes IndexedDataset::sizes() const {
  return {idx_.bytes().data() + kIdxHeaderBytes, num_sequences_};
}

int64_t IndexedDataset::first_token(int64_t sequence) const {
  CHECK(sequence >= 0 && sequence < num_sequences_, "sequence {} of {}", sequence, num_sequences_);
  const int64_t offset = kIdxHeaderBytes + 4 * num_sequences_ + 8 * sequence;
  return Load<int64_t>(idx_.bytes(), offset) / DTypeSize(dtype_);
}

int64_t IndexedDataset::document_entry(int64_t i) const {
  CHECK(i >= 0 && i < num_document_entries_, "entry {} of {}", i, num_document_entries_);
  return Load<int64_t>(idx_.bytes(), kIdxHeaderBytes + 12 * num_sequences_ + 8 * i);
}

void IndexedDataset::Read(int64_t sequence, int64_t offset, std::span<int32_t> tokens) const {
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t available = size(sequence);
  CHECK(offset >= 0 && count <= available && offset <= available - count,
        "tokens [{}, {} + {}) of sequence {} with {}", offset, offset, count, sequence, available);
  ReadStream(first_token(sequence) + offset, tokens);
}

void IndexedDataset::ReadStream(int64_t first_token, std::span<int32_t> tokens) const {
  const auto count = static_cast<int64_t>(tokens.size());
  CHECK(first_token >= 0 && count <= num_tokens_ && first_token <= num_tokens_ - count,
        "tokens [{}, {} + {}) of {}", first_token, first_token, count, num_tokens_);
  const auto item = static_cast<size_t>(DTypeSize(dtype_));
  // In pieces, so that the scratch stays small however much is asked for.
  constexpr size_t kPiece = 4096;
  std::byte scratch[kPiece * sizeof(int64_t)];
  while (!tokens.empty()) {
    const std::span<int32_t> piece = tokens.first(std::min(tokens.size(), kPiece));
    const std::span<std::byte> bytes(scratch, piece.size() * item);
    ReadBytes(first_token * static_cast<int64_t>(item), bytes);
    if (const std::optional<size_t> bad = Widen(dtype_, bytes, piece)) {
      const TokenPlace place = StreamPlace(first_token + static_cast<int64_t>(*bad));
      throw BadData(
          place.file, place.byte_offset,
          fmt::format("sequence {} holds a token id that is negative or too large", place.sequence),
          "the file is damaged, or does not hold token ids");
    }
    first_token += static_cast<int64_t>(piece.size());
    tokens = tokens.subspan(piece.size());
  }
}

void IndexedDataset::ReadBytes(int64_t byte_offset, std::span<std::byte> bytes) const {
  CHECK(byte_offset >= 0 && byte_offset <= shards_.back().end);
  auto shard = std::upper_bound(shards_.begin(), shards_.end(), byte_offset,
                                [](int64_t at, const Shard& s) { return at < s.end; });
  for (; !bytes.empty(); ++shard) {
    CHECK(shard != shards_.end(), "read past the end of the .bin");
    const auto here = std::min(bytes.size(), static_cast<size_t>(shard->end - byte_offset));
    shard->file.ReadAt(byte_offset - shard->begin, bytes.first(here));
    byte_offset += static_cast<int64_t>(here);
    bytes = bytes.subspan(here);
  }
}

TokenPlace IndexedDataset::Place(int64_t sequence, int64_t offset) const {
  const int64_t at = (first_token(sequence) + offset) * DTypeSize(dtype_);
  const auto shard = std::upper_bound(shards_.begin(), shards_.end() - 1, at,
                                      [](int64_t byte, const Shard& s) { return byte < s.end; });
  return {.file = shard->file.path(), .sequence = sequence, .byte_offset = at - shard->begin};
}

TokenPlace IndexedDataset::StreamPlace(int64_t token) const {
  // The last sequence that starts at or before the token: empty ones share their start with the
  // sequence that follows.
  int64_t low = 0;
  int64_t high = num_sequences_;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (first_token(middle) <= token ? low : high) = middle;
  }
  return Place(low, token - first_token(low));
}

DType TokenDTypeFor(int64_t vocab_size) {
  return vocab_size < 65500 ? DType::kUInt16 : DType::kInt32;
}

}  // namespace sepia::data
