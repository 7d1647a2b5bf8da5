// A file of torch.save: a zip of stored members (torch >= 1.6), or the older container of pickles
// in a row. The objects are data (pickle.h); tensors are read from the mapped file. Layout:
// docs/formats/torch.md.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "base/file.h"
#include "checkpoint/rectangle.h"
#include "checkpoint/torch/pickle.h"
#include "checkpoint/torch/zip_archive.h"

namespace sepia::checkpoint {

// Immutable once open, so reading is thread-safe. Throws BadData (exit 65).
class TorchFile {
 public:
  TorchFile(const std::string& path, PickleMode mode);

  const std::string& path() const { return file_.path(); }
  const PickleValue& root() const { return pickle_.root(); }
  // The root; throws BadData unless it is a dict.
  const PickleDict& RootDict() const;

  // Elements `part` of a tensor of floating dtype, widened to fp32, row-major. The first read of a
  // storage checks its CRC-32.
  void ReadFloats(const TorchTensor& tensor, const Rectangle& part, std::span<float> out) const;

 private:
  struct Content {
    std::span<const std::byte> bytes;
    const ZipEntry* entry = nullptr;  // zip only
    std::unique_ptr<std::atomic<bool>> is_checked;
  };

  void OpenZip(PickleMode mode);
  void OpenLegacy(PickleMode mode);
  void AddStorage(const TorchStorage& storage, std::span<const std::byte> bytes,
                  const ZipEntry* entry);
  std::span<const std::byte> BytesOf(const TorchStorage& storage) const;

  MappedFile file_;
  Pickle pickle_;
  std::vector<ZipEntry> entries_;
  std::map<const TorchStorage*, Content> contents_;
};

// Whether a file's first bytes are those of a zip archive or a pickle.
bool LooksLikeTorchFile(const std::string& path);

}  // namespace sepia::checkpoint
