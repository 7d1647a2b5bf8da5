#include "data/npy_writer.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "base/error.h"
#include "data/npy.h"

namespace sepia::data {
namespace {

constexpr size_t kFlushBytes = size_t{1} << 20;

// Unique on a file system that several machines share.
std::string TemporaryName(const std::string& path) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return fmt::format("{}.tmp-{}-{}", path, host.data(), getpid());
}

}  // namespace

NpyWriter::NpyWriter(const std::string& path, const std::string& descr, std::vector<int64_t> shape)
    : path_(path), temporary_(TemporaryName(path)), file_(File::Create(temporary_)) {
  const std::string header = NpyHeader(descr, shape);
  int64_t bytes = descr.back() - '0';
  for (const int64_t extent : shape) bytes *= extent;
  try {
    file_.Preallocate(static_cast<int64_t>(header.size()) + bytes);
  } catch (...) {
    unlink(temporary_.c_str());
    throw;
  }
  Append(std::as_bytes(std::span(header)));
}

NpyWriter::~NpyWriter() {
  if (file_.is_open()) unlink(temporary_.c_str());
}

void NpyWriter::Append(std::span<const std::byte> bytes) {
  if (bytes.size() >= kFlushBytes) {
    Flush();
    file_.Write(bytes);
    return;
  }
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  if (pending_.size() >= kFlushBytes) Flush();
}

void NpyWriter::Flush() {
  file_.Write(pending_);
  pending_.clear();
}

void NpyWriter::Finish() {
  Flush();
  file_.Sync();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) throw CannotWrite(path_, errno);
  file_.Close();
}

}  // namespace sepia::data
