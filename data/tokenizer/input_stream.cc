#include "data/tokenizer/input_stream.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include <zlib.h>
#include <zstd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"

namespace sepia::data {
namespace {

class PlainStream : public InputStream {
 public:
  explicit PlainStream(const std::string& path) : file_(File::OpenForRead(path)) {}

  size_t Read(std::span<char> buffer) override {
    ssize_t got;
    do {
      got = read(file_.fd(), buffer.data(), buffer.size());
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
      throw BadData(file_.path(), position_, std::string("cannot read: ") + std::strerror(errno));
    }
    position_ += got;
    return static_cast<size_t>(got);
  }
  int64_t position() const override { return position_; }
  const std::string& path() const { return file_.path(); }

 private:
  File file_;
  int64_t position_ = 0;
};

// A compressed file and the part of it that is in memory.
class CompressedInput {
 public:
  explicit CompressedInput(const std::string& path) : file_(path), buffer_(size_t{1} << 17) {}

  // What has not been used yet; empty only at the end of the file.
  std::span<const char> Remaining() {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = file_.Read(buffer_);
    }
    return std::span<const char>(buffer_).subspan(begin_, end_ - begin_);
  }
  void Use(size_t count) { begin_ += count; }

  int64_t position() const { return file_.position() - static_cast<int64_t>(end_ - begin_); }
  [[noreturn]] void Fail(const std::string& reason) const {
    throw BadData(file_.path(), position(), reason, "the file is damaged or truncated");
  }

 private:
  PlainStream file_;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

// One or more gzip members.
class GzipStream : public InputStream {
 public:
  explicit GzipStream(const std::string& path) : input_(path) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    CHECK(inflateInit2(&stream_, kGzipOnly) == Z_OK, "zlib");
  }
  ~GzipStream() override { inflateEnd(&stream_); }

  size_t Read(std::span<char> buffer) override {
    while (true) {
      const std::span<const char> input = input_.Remaining();
      if (input.empty()) {
        if (in_member_) input_.Fail("the gzip data ends too early");
        return 0;
      }
      in_member_ = true;
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
      stream_.avail_in = static_cast<uInt>(input.size());
      stream_.next_out = reinterpret_cast<Bytef*>(buffer.data());
      stream_.avail_out = static_cast<uInt>(buffer.size());
      const int status = inflate(&stream_, Z_NO_FLUSH);
      input_.Use(input.size() - stream_.avail_in);
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
        input_.Fail(std::string("gzip: ") + (stream_.msg == nullptr ? "error" : stream_.msg));
      }
      if (status == Z_STREAM_END) {
        in_member_ = false;
        inflateReset(&stream_);
      }
      const size_t produced = buffer.size() - stream_.avail_out;
      if (produced > 0) return produced;
    }
  }
  int64_t position() const override { return input_.position(); }

 private:
  CompressedInput input_;
  z_stream stream_{};
  bool in_member_ = false;
};

// One or more zstd frames. Frames that need a window above 128 MiB are refused (zstd's default).
class ZstdStream : public InputStream {
 public:
  explicit ZstdStream(const std::string& path) : input_(path), stream_(ZSTD_createDStream()) {
    CHECK(stream_ != nullptr, "zstd");
  }
  ~ZstdStream() override { ZSTD_freeDStream(stream_); }

  size_t Read(std::span<char> buffer) override {
    ZSTD_outBuffer output{buffer.data(), buffer.size(), 0};
    while (output.pos == 0) {
      const std::span<const char> remaining = input_.Remaining();
      ZSTD_inBuffer input{remaining.data(), remaining.size(), 0};
      // At the end of the file the decoder may still hold output.
      const size_t status = ZSTD_decompressStream(stream_, &output, &input);
      if (ZSTD_isError(status)) input_.Fail(std::string("zstd: ") + ZSTD_getErrorName(status));
      input_.Use(input.pos);
      if (input.pos > 0) in_frame_ = status != 0;
      if (!remaining.empty() || output.pos > 0) continue;
      if (in_frame_) input_.Fail("the zstd data ends too early");
      return 0;
    }
    return output.pos;
  }
  int64_t position() const override { return input_.position(); }

 private:
  CompressedInput input_;
  ZSTD_DStream* stream_;
  bool in_frame_ = false;
};

}  // namespace

std::unique_ptr<InputStream> InputStream::Open(const std::string& path) {
  if (path.ends_with(".gz")) return std::make_unique<GzipStream>(path);
  if (path.ends_with(".zst")) return std::make_unique<ZstdStream>(path);
  return std::make_unique<PlainStream>(path);
}

std::string UncompressedName(const std::string& path) {
  for (const std::string_view suffix : {".gz", ".zst"}) {
    if (path.ends_with(suffix)) return path.substr(0, path.size() - suffix.size());
  }
  return path;
}

}  // namespace sepia::data
