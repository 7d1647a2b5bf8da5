#include "checkpoint/import/weight_file.h"

#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/elements.h"
#include "checkpoint/safetensors.h"

namespace sepia::checkpoint {
namespace {

class SafetensorsWeights : public WeightFile {
 public:
  explicit SafetensorsWeights(const std::string& path) : file_(path) {
    tensors_.reserve(file_.entries().size());
    for (const SafetensorsEntry& entry : file_.entries()) {
      tensors_.push_back({entry.name, entry.dtype, entry.shape});
    }
  }

  const std::string& path() const override { return file_.path(); }
  std::span<const SourceTensor> tensors() const override { return tensors_; }

  void Read(const std::string& name, const Rectangle& part, TensorView out) const override {
    const SafetensorsEntry& entry = file_.Get(name);
    const auto size = DTypeSize(entry.dtype);
    ForEachRun(
        part, Rectangle::Whole(entry.shape), part, [&](int64_t from, int64_t to, int64_t count) {
          WidenToFloats(
              entry.dtype,
              entry.bytes.subspan(static_cast<size_t>(from * size),
                                  static_cast<size_t>(count * size)),
              out.span<float>().subspan(static_cast<size_t>(to), static_cast<size_t>(count)));
        });
  }

 private:
  SafetensorsFile file_;
  std::vector<SourceTensor> tensors_;
};

bool IsTorchFile(const std::string& path) {
  const File file = File::OpenForRead(path);
  unsigned char start[2] = {};
  if (file.Size() < 2) return false;
  file.ReadAt(0, std::as_writable_bytes(std::span(start)));
  return std::memcmp(start, "PK", 2) == 0 || start[0] == 0x80;  // a zip, or a bare pickle
}

}  // namespace

std::unique_ptr<WeightFile> OpenWeightFile(const std::string& path) {
  if (path.ends_with(".bin") || path.ends_with(".pt") || IsTorchFile(path)) {
    throw BadData(path, -1, "PyTorch pickle files cannot be read by this version",
                  "convert it to safetensors first (transformers: save_pretrained)");
  }
  return std::make_unique<SafetensorsWeights>(path);
}

}  // namespace sepia::checkpoint
