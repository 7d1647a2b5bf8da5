#include "data/tokenizer/corpus_reader.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace sepia::data {
namespace {

constexpr size_t kReadBytes = size_t{1} << 16;
constexpr size_t kChunkBytes = size_t{1} << 18;

bool IsJsonLines(const std::string& path) {
  const std::string name = UncompressedName(path);
  return name.ends_with(".jsonl") || name.ends_with(".json");
}

}  // namespace

CorpusReader::CorpusReader(std::vector<std::string> paths, CorpusOptions options)
    : paths_(std::move(paths)), options_(std::move(options)) {
  if (paths_.empty()) throw UserError("no input files: name at least one .txt or .jsonl file");
  for (const std::string& path : paths_) {
    if (!IsJsonLines(path) && !UncompressedName(path).ends_with(".txt")) {
      throw UserError(path +
                      ": its name says neither .txt nor .jsonl (each may end in .gz or "
                      ".zst): rename it");
    }
    total_file_bytes_ += File::OpenForRead(path).Size();
  }
}

void CorpusReader::OpenNextFile() {
  path_ = &paths_[next_path_++];
  stream_ = InputStream::Open(*path_);
  is_json_ = IsJsonLines(*path_);
  delimiter_ = is_json_ ? "\n" : options_.document_separator;
  buffer_.clear();
  begin_ = searched_ = 0;
  line_ = offset_ = 0;
}

// Reads on; false at the end of the file. Drops what was handed out, so that the buffer holds no
// more than one document and one block.
bool CorpusReader::FillBuffer() {
  buffer_.erase(0, begin_);
  searched_ -= begin_;
  begin_ = 0;
  if (static_cast<int64_t>(buffer_.size()) > options_.max_document_bytes) {
    throw BadData(
        *path_, offset_,
        fmt::format("a document of more than {} bytes begins here", options_.max_document_bytes),
        is_json_ ? "raise --max-document-bytes"
                 : "cut it with --document-separator or raise --max-document-bytes");
  }
  const size_t size = buffer_.size();
  buffer_.resize(size + kReadBytes);
  const size_t got = stream_->Read(std::span(buffer_).subspan(size));
  buffer_.resize(size + got);
  return got > 0;
}

void CorpusReader::TakeDocument(size_t length, size_t delimiter_length, RawDocument& document) {
  document = {path_, is_json_, ++line_, offset_, buffer_.substr(begin_, length)};
  begin_ += length + delimiter_length;
  offset_ += static_cast<int64_t>(length + delimiter_length);
  searched_ = begin_;
}

bool CorpusReader::NextDocument(RawDocument& document) {
  while (true) {
    if (stream_ == nullptr) {
      if (next_path_ == paths_.size()) return false;
      OpenNextFile();
    }
    const size_t found =
        delimiter_.empty() ? std::string::npos : buffer_.find(delimiter_, searched_);
    if (found != std::string::npos) {
      TakeDocument(found - begin_, delimiter_.size(), document);
      return true;
    }
    // The delimiter may lie across the end of the buffer.
    const size_t keep = delimiter_.empty() ? 0 : delimiter_.size() - 1;
    searched_ = std::max(begin_, buffer_.size() - std::min(keep, buffer_.size()));
    if (FillBuffer()) continue;
    finished_bytes_ += stream_->position();
    stream_.reset();
    if (begin_ < buffer_.size()) {
      TakeDocument(buffer_.size() - begin_, 0, document);
      return true;
    }
  }
}

bool CorpusReader::NextChunk(CorpusChunk& chunk) {
  chunk = CorpusChunk();
  chunk.index = num_chunks_++;
  size_t bytes = 0;
  RawDocument document;
  while (bytes < kChunkBytes && NextDocument(document)) {
    bytes += document.bytes.size() + 1;
    chunk.documents.push_back(std::move(document));
  }
  chunk.file_bytes = finished_bytes_ + (stream_ == nullptr ? 0 : stream_->position());
  return !chunk.documents.empty();
}

}  // namespace sepia::data
