// The JSON header of a safetensors file, parsed and checked but not yet tied to a file's bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/shape.h"

namespace sepia::checkpoint {

struct SafetensorsHeader {
  struct Tensor {
    std::string name;
    DType dtype = DType::kFloat32;
    Shape shape;
    int64_t begin = 0;  // relative to the end of the header
    int64_t end = 0;
  };
  std::vector<Tensor> tensors;  // by name
  std::map<std::string, std::string> metadata;
};

// Checks everything that the JSON text alone shows: grammar, UTF-8, unique keys, known fields and
// dtypes, shapes whose byte size fits and equals the range. `path` is for messages. Memory stays
// within a small multiple of the text.
SafetensorsHeader ParseSafetensorsHeader(std::string_view json, const std::string& path);

}  // namespace sepia::checkpoint
