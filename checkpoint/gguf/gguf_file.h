// The GGUF container of llama.cpp, version 3: metadata, tensor table, aligned data; little-endian.
// Format: ggml-org/ggml docs/gguf.md; what we use of it: docs/formats/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/shape.h"

namespace sepia::checkpoint {

enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

inline constexpr uint32_t kGgufVersion = 3;
inline constexpr int64_t kGgufAlignment = 32;

// 0 F32, 1 F16, 30 BF16; the quantised types have no DType.
uint32_t GgufTensorType(DType dtype);

// Checked, but left as bytes: nothing of ours reads one.
struct GgufArray {
  GgufType type = GgufType::kUint8;
  uint64_t count = 0;
};

// All integers are int64 here; the few past that are refused.
using GgufValue = std::variant<int64_t, double, bool, std::string_view, GgufArray>;

struct GgufTensor {
  std::string_view name;
  DType dtype = DType::kFloat32;
  Shape shape;  // row-major: the file has the dimensions the other way round
  std::span<const std::byte> bytes;
};

// A mapped file whose every record is inside it. Immutable. Throws BadData with the offset.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  // Null when absent.
  const GgufValue* Find(std::string_view key) const;
  // Sorted by name.
  std::span<const GgufTensor> tensors() const { return tensors_; }
  const GgufTensor* FindTensor(std::string_view name) const;

 private:
  MappedFile file_;
  std::vector<std::pair<std::string_view, GgufValue>> values_;  // sorted by key
  std::vector<GgufTensor> tensors_;
};

// Whether a file begins with "GGUF".
bool LooksLikeGguf(const std::string& path);

}  // namespace sepia::checkpoint
