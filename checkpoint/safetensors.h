// The safetensors container: `u64 header length | JSON header | data`, little-endian, row-major.
// Format: github.com/huggingface/safetensors, README "Format" and safetensors/src/tensor.rs; the
// rules that a file must keep are listed in docs/formats/safetensors.md.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/atomic_file.h"
#include "base/file.h"
#include "base/tensor.h"

namespace sepia::checkpoint {

// One tensor of a file. `bytes` lies in the mapping and need not be aligned to the element size:
// read it with CopyTo or ReadFloats.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  std::span<const std::byte> bytes;
};

// A mapped file whose header obeys every rule. Immutable, so reading is thread-safe. Faults throw
// BadData (exit 65) with file, offset, reason and remedy.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  // Sorted by name.
  std::span<const SafetensorsEntry> entries() const { return entries_; }
  // Null when absent.
  const SafetensorsEntry* Find(std::string_view name) const;
  // Throws BadData when absent.
  const SafetensorsEntry& Get(std::string_view name) const;
  // The "__metadata__" strings.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // The whole tensor into `out`, which has the entry's dtype and shape.
  void CopyTo(const SafetensorsEntry& entry, TensorView out) const;
  // Any floating dtype widened to fp32 (f64 rounds to nearest). Integer tensors throw BadData.
  void ReadFloats(const SafetensorsEntry& entry, std::span<float> out) const;
  // Any integer dtype (or bool) widened to int64. Floating tensors throw BadData.
  std::vector<int64_t> ReadIntegers(const SafetensorsEntry& entry) const;

 private:
  MappedFile file_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// "F32", "BF16", ...
std::string_view SafetensorsDTypeName(DType dtype);

// What a file will hold, known before any data is.
struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
};

// Writes a file tensor by tensor, so that a model never has to be in memory twice. Space is
// reserved at once; the file appears under its name at Commit(), complete and synced, or not at
// all. "__metadata__" always holds "format": "pt", which transformers < 4.45 insists on.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::span<const SafetensorsSpec> specs,
                    std::map<std::string, std::string> metadata = {});

  // Tensors in the order of the file: larger elements first, then by name, as upstream writes.
  std::span<const SafetensorsSpec> specs() const { return specs_; }
  // Bytes [begin, begin + bytes.size()) of tensor `index` of specs().
  void Write(size_t index, int64_t begin, std::span<const std::byte> bytes);
  void Commit();

 private:
  AtomicFile file_;
  std::vector<SafetensorsSpec> specs_;
  std::vector<int64_t> offsets_;  // in the file; one more than specs_
};

struct SafetensorsTensor {
  std::string name;
  ConstTensorView view;
};

// The same for tensors that are all in memory.
void WriteSafetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace sepia::checkpoint
