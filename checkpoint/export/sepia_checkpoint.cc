#include "checkpoint/export/sepia_checkpoint.h"

#include <filesystem>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/elements.h"
#include "checkpoint/export/new_directory.h"
#include "checkpoint/export/value_stream.h"
#include "checkpoint/writer.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

// Read when its turn comes to be written.
CheckpointTensor Deferred(const ModelSource& source, const SourceTensor& tensor, Role role,
                          DType dtype) {
  const auto read = [&source, &tensor, role, dtype](const Rectangle& part, TensorView out) {
    const OwnedTensor values(DType::kFloat32, part.extent);
    source.ReadPart(tensor.name, part, values, role == Role::kWeight ? Role::kMaster : role);
    NarrowFromFloats(values.view().span<float>(), dtype,
                     {static_cast<std::byte*>(out.raw()), static_cast<size_t>(out.num_bytes())});
  };
  return {{tensor.name, TensorView(nullptr, dtype, tensor.shape), tensor.shape,
           std::vector<int64_t>(static_cast<size_t>(tensor.shape.rank()), 0)},
          role,
          read};
}

std::vector<CheckpointTensor> DeferredTensors(const ModelSource& source, DType dtype) {
  std::vector<CheckpointTensor> tensors;
  const bool exact = dtype == DType::kFloat32;
  for (const SourceTensor& tensor : source.tensors()) {
    tensors.push_back(Deferred(source, tensor, exact ? Role::kMaster : Role::kWeight, dtype));
    for (const Role role : {Role::kExpAvg, Role::kExpAvgSq}) {
      if (exact && source.Has(role)) tensors.push_back(Deferred(source, tensor, role, dtype));
    }
  }
  return tensors;
}

}  // namespace

std::string ExportSepiaCheckpoint(const ModelSource& source, const std::string& directory,
                                  DType dtype) {
  config::ModelConfig config;
  source.FillModelConfig(&config);
  const TrainState* state = dtype == DType::kFloat32 ? source.train_state() : nullptr;
  if (state == nullptr && source.train_state() != nullptr) {
    LogWarn("{} keeps weights only: the result cannot be resumed from; use f32 to keep everything",
            DTypeName(dtype));
  }
  std::vector<Attachment> attachments;
  for (const std::string& file : TokenizerFiles(source)) {
    attachments.push_back({std::filesystem::path(file).filename(), ReadFile(file)});
  }
  const int64_t step = source.train_state() == nullptr ? 0 : source.train_state()->step;
  NewDirectory target(directory);
  CheckpointWriter writer({.dir = target.path(), .retention = {}, .before_stage = {}});
  const std::vector<CheckpointTensor> tensors = DeferredTensors(source, dtype);
  writer.Save({.step = step,
               .model = &config,
               .tensors = tensors,
               .train_state = state,
               .config_text = std::string(source.config_text()),
               .attachments = attachments});
  target.Commit();
  return directory + "/" + StepDirectoryName(step);
}

}  // namespace sepia::checkpoint
