#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "data/indexed_dataset.h"
#include "data/indexed_dataset_format.h"

namespace sepia::data {
namespace {

constexpr size_t kFlushBytes = size_t{1} << 20;

template <typename T>
void Append(std::vector<std::byte>& bytes, T value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

int64_t LargestValue(DType dtype) {
  switch (dtype) {
    case DType::kUInt8: return std::numeric_limits<uint8_t>::max();
    case DType::kInt8: return std::numeric_limits<int8_t>::max();
    case DType::kInt16: return std::numeric_limits<int16_t>::max();
    case DType::kUInt16: return std::numeric_limits<uint16_t>::max();
    case DType::kInt64: return std::numeric_limits<int64_t>::max();
    default: return std::numeric_limits<int32_t>::max();
  }
}

// Two's complement, little-endian: the low bytes of the wide value are the narrow value.
template <typename T>
void AppendNarrowed(std::vector<std::byte>& bytes, std::span<const T> values, size_t item) {
  for (const T value : values) {
    const auto wide = static_cast<int64_t>(value);
    const auto raw = std::as_bytes(std::span(&wide, 1)).first(item);
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  }
}

void RenameOver(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) throw CannotWrite(to, errno);
}

// Appends to a file through a bounded buffer.
class BufferedOutput {
 public:
  explicit BufferedOutput(File& file) : file_(file) {}
  template <typename T>
  void Put(T value) {
    Append(pending_, value);
    if (pending_.size() >= kFlushBytes) Flush();
  }
  void Flush() {
    file_.Write(pending_);
    pending_.clear();
  }

 private:
  File& file_;
  std::vector<std::byte> pending_;
};

}  // namespace

IndexedDatasetWriter::IndexedDatasetWriter(std::string prefix, DType dtype)
    : prefix_(std::move(prefix)),
      dtype_(dtype),
      temporary_bin_(fmt::format("{}.bin.tmp-{}", prefix_, getpid())),
      temporary_idx_(fmt::format("{}.idx.tmp-{}", prefix_, getpid())) {
  CHECK(IdxTypeCode(dtype).has_value(), "{} cannot hold token ids", DTypeName(dtype));
  bin_ = File::Create(temporary_bin_);
}

IndexedDatasetWriter::~IndexedDatasetWriter() {
  if (finished_) return;
  unlink(temporary_bin_.c_str());
  unlink(temporary_idx_.c_str());
}

void IndexedDatasetWriter::AddDocument(std::span<const int32_t> tokens) {
  AddSequence(tokens);
  EndDocument();
}

void IndexedDatasetWriter::AddSequence(std::span<const int32_t> tokens) { Add(tokens); }
void IndexedDatasetWriter::AddSequence(std::span<const int64_t> values) { Add(values); }

template <typename T>
void IndexedDatasetWriter::Add(std::span<const T> tokens) {
  CHECK(!finished_, "AddSequence after Finish");
  const int64_t largest = LargestValue(dtype_);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] <= largest) continue;
    throw BadData(prefix_, -1,
                  fmt::format("token {} of sequence {} is {}, outside {} (0 to {})", i,
                              sizes_.size(), tokens[i], DTypeName(dtype_), largest),
                  "write a wider type");
  }
  if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw BadData(prefix_, -1,
                  fmt::format("sequence {} has {} tokens; the format counts them in 32 bits",
                              sizes_.size(), tokens.size()),
                  "cut the document");
  }
  AppendNarrowed(pending_, tokens, static_cast<size_t>(DTypeSize(dtype_)));
  if (pending_.size() >= kFlushBytes) FlushBin();
  if (document_lengths_.empty() || document_ended_) document_lengths_.push_back(0);
  document_ended_ = false;
  ++document_lengths_.back();
  sizes_.push_back(static_cast<int32_t>(tokens.size()));
  num_tokens_ += static_cast<int64_t>(tokens.size());
}

void IndexedDatasetWriter::EndDocument() {
  CHECK(!finished_, "EndDocument after Finish");
  if (document_lengths_.empty() || document_ended_) document_lengths_.push_back(0);
  document_ended_ = true;
}

void IndexedDatasetWriter::FlushBin() {
  bin_.Write(pending_);
  pending_.clear();
}

void IndexedDatasetWriter::WriteIdx() {
  File idx = File::Create(temporary_idx_);
  BufferedOutput out(idx);
  for (const char c : kIdxMagic) out.Put(c);
  out.Put(kIdxVersion);
  out.Put(*IdxTypeCode(dtype_));
  out.Put(static_cast<uint64_t>(sizes_.size()));
  out.Put(static_cast<uint64_t>(document_lengths_.size() + 1));
  for (const int32_t size : sizes_) out.Put(size);
  int64_t pointer = 0;
  for (const int32_t size : sizes_) {
    out.Put(pointer);
    pointer += size * DTypeSize(dtype_);
  }
  int64_t sequence = 0;
  out.Put(sequence);
  for (const int32_t length : document_lengths_) {
    sequence += length;
    out.Put(sequence);
  }
  out.Flush();
  idx.Sync();
  idx.Close();
}

void IndexedDatasetWriter::Finish() {
  CHECK(!finished_, "Finish called twice");
  CHECK(document_lengths_.empty() || document_ended_, "the last document was not ended");
  FlushBin();
  bin_.Sync();
  bin_.Close();
  WriteIdx();
  const std::string idx = prefix_ + ".idx";
  // An old index must never describe the new tokens, not even after a crash between the renames.
  if (unlink(idx.c_str()) != 0 && errno != ENOENT) throw CannotWrite(idx, errno);
  RenameOver(temporary_bin_, prefix_ + ".bin");
  RenameOver(temporary_idx_, idx);
  finished_ = true;
  SyncDirectory(DirectoryOf(prefix_));
}

}  // namespace sepia::data
