// The documents of a list of text files, in order: .txt (a file is a document, or is cut at a
// separator) and .jsonl (a line is a document), each also .gz or .zst.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer/input_stream.h"

namespace sepia::data {

enum class OnInvalidUtf8 { kError, kReplace };

struct CorpusOptions {
  std::string json_key = "text";
  // Text files are cut here; empty: not at all.
  std::string document_separator = {};
  OnInvalidUtf8 on_invalid_utf8 = OnInvalidUtf8::kError;
  // Longer documents are an error: each is held in memory as a whole.
  int64_t max_document_bytes = int64_t{256} << 20;
};

// A document as it is in its file.
struct RawDocument {
  const std::string* path;
  bool is_json;
  int64_t line;    // 1-based; JSON only
  int64_t offset;  // of its first byte in the decompressed file
  std::string bytes;
};

// Some consecutive documents: what a worker takes at once.
struct CorpusChunk {
  int64_t index = 0;
  std::vector<RawDocument> documents;
  int64_t file_bytes = 0;  // of the files on disk, used so far
};

// Not thread-safe.
class CorpusReader {
 public:
  // Throws UserError before anything is read: no files, a name that is neither .txt nor .jsonl, a
  // file that cannot be opened.
  CorpusReader(std::vector<std::string> paths, CorpusOptions options);

  const CorpusOptions& options() const { return options_; }
  // Sizes of all files on disk together.
  int64_t total_file_bytes() const { return total_file_bytes_; }

  // The next documents, about 256 KiB of them or one that is longer. False at the end.
  bool NextChunk(CorpusChunk& chunk);

 private:
  bool NextDocument(RawDocument& document);
  void OpenNextFile();
  bool FillBuffer();
  void TakeDocument(size_t length, size_t delimiter_length, RawDocument& document);

  std::vector<std::string> paths_;
  CorpusOptions options_;
  int64_t total_file_bytes_ = 0;

  size_t next_path_ = 0;
  std::unique_ptr<InputStream> stream_;  // null: no file is open
  const std::string* path_ = nullptr;
  bool is_json_ = false;
  std::string delimiter_;  // what ends a document; empty: the end of the file
  std::string buffer_;     // read, not yet handed out
  size_t begin_ = 0;       // of the next document in buffer_
  size_t searched_ = 0;    // buffer_[begin_, searched_) holds no delimiter
  int64_t line_ = 0;
  int64_t offset_ = 0;          // of buffer_[begin_] in the decompressed file
  int64_t finished_bytes_ = 0;  // of the files on disk before this one
  int64_t num_chunks_ = 0;
};

// The text of a document: the JSON value taken out, UTF-8 checked or mended. Nothing for a blank
// line of JSON. Thread-safe. Throws UserError(kBadData) naming file, line and offset.
std::optional<std::string> DocumentText(RawDocument document, const CorpusOptions& options);

}  // namespace sepia::data
