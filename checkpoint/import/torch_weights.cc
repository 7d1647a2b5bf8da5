#include "checkpoint/import/torch_weights.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/torch/torch_file.h"

namespace sepia::checkpoint {
namespace {

class TorchWeights : public WeightFile {
 public:
  explicit TorchWeights(const std::string& path) : file_(path, PickleMode::kWeights) {
    for (const auto& [key, value] : file_.RootDict().items) {
      const auto* name = std::get_if<std::string_view>(&key);
      const auto* tensor = PointerTo<TorchTensor>(value);
      if (name == nullptr) throw BadData(path, -1, "a key of the state dict is not a string");
      if (tensor == nullptr) {
        throw BadData(path, -1,
                      fmt::format("the entry '{}' is {}, not a tensor", *name, Describe(value)),
                      PointerTo<PickleDict>(value) == nullptr
                          ? "save a state_dict() with torch.save"
                          : "the state dict is nested; save the inner one by itself");
      }
      tensors_.push_back({std::string(*name), tensor->storage->dtype, tensor->shape});
      by_name_[tensors_.back().name] = tensor;
    }
    ReportShared();
  }

  const std::string& path() const override { return file_.path(); }
  std::span<const SourceTensor> tensors() const override { return tensors_; }

  void Read(const std::string& name, const Rectangle& part, TensorView out) const override {
    file_.ReadFloats(*by_name_.at(name), part, out.span<float>());
  }

 private:
  // Views that share elements (tied weights) are legal, but worth a line.
  void ReportShared() const {
    std::vector<std::tuple<const TorchStorage*, int64_t, std::string>> begins;
    for (const auto& [name, tensor] : by_name_) {
      begins.emplace_back(tensor->storage, tensor->offset, name);
    }
    std::sort(begins.begin(), begins.end());
    for (size_t i = 1; i < begins.size(); ++i) {
      const auto& [storage, begin, name] = begins[i - 1];
      const auto& [next_storage, next_begin, next_name] = begins[i];
      if (storage == next_storage && begin == next_begin) {
        LogInfo("{}: '{}' and '{}' share their elements", path(), name, next_name);
      }
    }
  }

  TorchFile file_;
  std::vector<SourceTensor> tensors_;
  std::map<std::string, const TorchTensor*> by_name_;
};

}  // namespace

std::unique_ptr<WeightFile> OpenTorchWeights(const std::string& path) {
  return std::make_unique<TorchWeights>(path);
}

}  // namespace sepia::checkpoint
