#include "tests/checkpoint/expect_tensors.h"

#include <bit>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"

namespace sepia::checkpoint::testing {

void ExpectTensors(const ModelSource& source, const std::string& expected_path, Role role,
                   const std::string& prefix) {
  const SafetensorsFile expected(expected_path);
  size_t compared = 0;
  for (const SafetensorsEntry& entry : expected.entries()) {
    if (!entry.name.starts_with(prefix)) continue;
    ++compared;
    const auto size = static_cast<size_t>(entry.shape.num_elements());
    std::vector<float> wanted(size);
    std::vector<float> values(size);
    expected.ReadFloats(entry, wanted);
    const std::string name = entry.name.substr(prefix.size());
    source.ReadTensor(name, TensorView::Of(std::span(values), entry.shape), role);
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(wanted[i]))
          << expected_path << " " << entry.name << " element " << i;
    }
  }
  EXPECT_EQ(source.tensors().size(), compared);
}

void ReadEverything(const ModelSource& source) {
  for (const Role role : {Role::kMaster, Role::kExpAvg, Role::kExpAvgSq}) {
    if (!source.Has(role)) continue;
    for (const SourceTensor& tensor : source.tensors()) {
      std::vector<float> values(static_cast<size_t>(tensor.shape.num_elements()));
      source.ReadTensor(tensor.name, TensorView::Of(std::span(values), tensor.shape), role);
    }
  }
}

}  // namespace sepia::checkpoint::testing
