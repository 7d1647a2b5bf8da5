#include "checkpoint/export/verification.h"

#include <cstring>
#include <vector>

#include "base/error.h"
#include "checkpoint/elements.h"
#include "checkpoint/export/hf_config.h"
#include "checkpoint/export/value_stream.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {

void CheckSameModel(const ModelSource& source, const ModelSource& written) {
  config::ModelConfig expected;
  config::ModelConfig found;
  source.FillModelConfig(&expected);
  written.FillModelConfig(&found);
  KeepHfFields(&expected);
  KeepHfFields(&found);
  CHECK(expected.SerializeAsString() == found.SerializeAsString(),
        "the architecture lost something:\n{}\nbecame\n{}", expected.ShortDebugString(),
        found.ShortDebugString());
}

void VerifyTensors(const ModelSource& source, const ModelSource& written, const std::string& path,
                   const std::function<DType(const SourceTensor&)>& stored_type) {
  CHECK_EQ(written.tensors().size(), source.tensors().size());
  std::vector<float> wanted;
  std::vector<float> values;
  for (const SourceTensor& tensor : source.tensors()) {
    const DType dtype = stored_type(tensor);
    ForEachBlock(source, tensor, Role::kMaster, dtype, [&](const ValueBlock& block) {
      const auto size = static_cast<size_t>(block.part.num_elements());
      wanted.resize(size);
      values.resize(size);
      WidenToFloats(dtype, block.bytes, wanted);
      written.ReadPart(tensor.name, block.part,
                       TensorView::Of(std::span(values), block.part.extent));
      if (std::memcmp(wanted.data(), values.data(), size * sizeof(float)) != 0) {
        throw BadData(path, -1,
                      fmt::format("tensor '{}' did not read back as written", tensor.name),
                      "check the disk");
      }
    });
  }
}

}  // namespace sepia::checkpoint
