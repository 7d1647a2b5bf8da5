// One file of named tensors, whatever its container (safetensors, torch.save). A new one is a
// subclass and a line in OpenWeightFile.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

class WeightFile {
 public:
  virtual ~WeightFile() = default;
  virtual const std::string& path() const = 0;
  // Under the names of the file; unique.
  virtual std::span<const SourceTensor> tensors() const = 0;
  // Elements `part` of a tensor of floating dtype, widened to fp32, row-major.
  virtual void Read(const std::string& name, const Rectangle& part, TensorView out) const = 0;
};

// Recognises the container by its content. Throws BadData for damaged or unknown ones.
std::unique_ptr<WeightFile> OpenWeightFile(const std::string& path);

}  // namespace sepia::checkpoint
