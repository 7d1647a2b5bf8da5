// Tokenised corpora in GPT-NeoX's / Megatron's .bin/.idx form (docs/formats/indexed_dataset.md).
//
// A dataset is a list of *sequences* of tokens. The file also groups sequences into documents, but
// GPT-NeoX's training ignores that grouping and calls every sequence a document; so does data/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "base/file.h"

namespace sepia::data {

// Where a token lies, for messages: file, sequence, and byte offset in that file.
struct TokenPlace {
  std::string file;
  int64_t sequence = 0;
  int64_t byte_offset = 0;
};

// The sizes of a dataset's sequences, in tokens: a view of an array without alignment.
class SequenceSizes {
 public:
  SequenceSizes(const void* data, int64_t count)
      : data_(static_cast<const std::byte*>(data)), count_(count) {}

  int64_t count() const { return count_; }
  int32_t operator[](int64_t sequence) const {
    DCHECK(sequence >= 0 && sequence < count_);
    int32_t size;
    std::memcpy(&size, data_ + sequence * int64_t{sizeof(size)}, sizeof(size));
    return size;
  }

 private:
  const std::byte* data_;
  int64_t count_;
};

// Read-only and immutable; all methods are thread-safe.
//
// The .idx is mapped and checked completely at construction (one pass, nothing is copied), so the
// accessors trust it: it must not be truncated while it is mapped. Tokens are read with pread, so a
// .bin that shrinks or fails during a run is an error that names file and offset, not a signal.
class IndexedDataset {
 public:
  // `prefix`.idx with either `prefix`.bin or its shards `prefix`-00000-of-00082.bin, which are read
  // without joining them. Throws kBadData for a missing or damaged file and for datasets that hold
  // no tokens (floating-point types).
  explicit IndexedDataset(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  std::string idx_path() const { return prefix_ + ".idx"; }
  // The .bin, or its first shard.
  const std::string& bin_path() const { return shards_.front().file.path(); }
  DType dtype() const { return dtype_; }
  int64_t num_sequences() const { return num_sequences_; }
  int64_t num_tokens() const { return num_tokens_; }

  // Tokens of one sequence.
  int32_t size(int64_t sequence) const;
  SequenceSizes sizes() const;
  // Number of tokens before this sequence in the file.
  int64_t first_token(int64_t sequence) const;
  // Entries of the document index: sequence numbers, from 0 to num_sequences(). Files merged by
  // GPT-NeoX v1.0 hold a single 0.
  int64_t num_document_entries() const { return num_document_entries_; }
  int64_t document_entry(int64_t i) const;

  // Tokens [offset, offset + tokens.size()) of one sequence. Throws kBadData for an id that is
  // negative or above 2^31 - 1 and for a .bin that has become shorter.
  void Read(int64_t sequence, int64_t offset, std::span<int32_t> tokens) const;
  // Tokens of the whole file seen as one stream, crossing sequences.
  void ReadStream(int64_t first_token, std::span<int32_t> tokens) const;
  // Bytes of the .bin, shards seen as joined.
  void ReadBytes(int64_t byte_offset, std::span<std::byte> bytes) const;

  TokenPlace Place(int64_t sequence, int64_t offset) const;
  // The same for a position in the stream; finds the sequence by bisection.
  TokenPlace StreamPlace(int64_t token) const;

  std::span<const std::byte> idx_bytes() const { return idx_.bytes(); }
  int64_t bin_bytes() const { return num_tokens_ * DTypeSize(dtype_); }

 private:
  struct Shard {
    File file;
    int64_t begin;  // of its bytes in the joined .bin
    int64_t end;
  };

  void ParseHeader();
  void CheckSequences();
  void CheckDocumentIndex() const;
  void OpenBin();

  std::string prefix_;
  MappedFile idx_;
  std::vector<Shard> shards_;
  DType dtype_ = DType::kUInt16;
  int64_t num_sequences_ = 0;
  int64_t num_document_entries_ = 0;
  int64_t num_tokens_ = 0;
};

// GPT-NeoX's choice: u16 below 65,500 entries, else i32.
DType TokenDTypeFor(int64_t vocab_size);

// Writes a dataset byte for byte as GPT-NeoX's builder does. Nothing appears under the final names
// before Finish(); an object destroyed without it removes its temporary files.
// Needs 8 bytes of memory a sequence. Not thread-safe.
class IndexedDatasetWriter {
 public:
  // dtype: kUInt8, kInt8, kInt16, kInt32, kInt64 or kUInt16. Throws kCannotWrite.
  IndexedDatasetWriter(std::string prefix, DType dtype);
  ~IndexedDatasetWriter();
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;
  IndexedDatasetWriter& operator=(const IndexedDatasetWriter&) = delete;

  // One document of one sequence: what tokenising a corpus produces.
  // Throws kBadData for an id that the dtype cannot hold.
  void AddDocument(std::span<const int32_t> tokens);
  // Documents of several sequences, or of none: AddSequence any number of times, then EndDocument.
  void AddSequence(std::span<const int32_t> tokens);
  // For kInt64 datasets, whose elements may lie beyond any vocabulary.
  void AddSequence(std::span<const int64_t> values);
  void EndDocument();

  int64_t num_sequences() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t num_tokens() const { return num_tokens_; }

  // Syncs both files, renames .bin then .idx, syncs the directory. Call once, last.
  void Finish();

 private:
  template <typename T>
  void Add(std::span<const T> values);
  void FlushBin();
  void WriteIdx();

  std::string prefix_;
  DType dtype_;
  std::string temporary_bin_;
  std::string temporary_idx_;
  File bin_;
  std::vector<std::byte> pending_;  // tokens not yet written
  std::vector<int32_t> sizes_;
  std::vector<int32_t> document_lengths_;  // sequences per document
  int64_t num_tokens_ = 0;
  bool document_ended_ = false;
  bool finished_ = false;
};

}  // namespace sepia::data
