#include "checkpoint/import/weight_file.h"

#include <vector>

#include "checkpoint/elements.h"
#include "checkpoint/import/torch_weights.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch/torch_file.h"

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

}  // namespace

std::unique_ptr<WeightFile> OpenWeightFile(const std::string& path) {
  const bool is_torch = path.ends_with(".bin") || path.ends_with(".pt") || LooksLikeTorchFile(path);
  if (is_torch) return OpenTorchWeights(path);
  return std::make_unique<SafetensorsWeights>(path);
}

}  // namespace sepia::checkpoint
