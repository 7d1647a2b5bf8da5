#include "checkpoint/model_source.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/gguf/gguf_file.h"
#include "checkpoint/gguf/gguf_source.h"
#include "checkpoint/import/hf_folder.h"
#include "checkpoint/neox/neox_files.h"
#include "checkpoint/neox/neox_source.h"
#include "checkpoint/sepia_source.h"

namespace sepia::checkpoint {
namespace {

void WarnAboutNonFinite(const std::string& path, const std::string& name,
                        std::span<const float> values) {
  int64_t nans = 0;
  int64_t infinities = 0;
  for (const float value : values) {
    nans += std::isnan(value);
    infinities += std::isinf(value);
  }
  if (nans + infinities == 0) return;
  LogWarn("{}: tensor '{}' holds {} NaN and {} infinite values", path, name, nans, infinities);
}

}  // namespace

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kMaster:
    case Role::kWeight: return "weight";
    case Role::kExpAvg: return "exp_avg";
    case Role::kExpAvgSq: return "exp_avg_sq";
  }
  CHECK(false, "role {}", static_cast<int>(role));
}

const SourceTensor& ModelSource::Get(std::string_view name) const {
  const auto all = tensors();
  const auto found = std::lower_bound(
      all.begin(), all.end(), name,
      [](const SourceTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  if (found == all.end() || found->name != name) {
    throw BadData(path(), -1, fmt::format("no tensor is named '{}'", name));
  }
  return *found;
}

void ModelSource::ReadTensor(const std::string& name, TensorView out, Role role) const {
  ReadPart(name, Rectangle::Whole(Get(name).shape), out, role);
}

void ModelSource::ReadPart(const std::string& name, const Rectangle& part, TensorView out,
                           Role role) const {
  const PartTarget target{part, out};
  ReadParts(name, {&target, 1}, role);
}

void ModelSource::ReadParts(const std::string& name, std::span<const PartTarget> parts,
                            Role role) const {
  const SourceTensor& tensor = Get(name);
  CHECK(Has(role), "{} has no {}", path(), RoleName(role));
  for (const PartTarget& target : parts) {
    CHECK(target.part.Inside(tensor.shape), "{} of tensor '{}' {}", target.part.ToString(), name,
          tensor.shape);
    CHECK_EQ(target.out.shape(), target.part.extent);
  }
  ReadEach(tensor, role, parts);
  for (const PartTarget& target : parts) {
    WarnAboutNonFinite(path(), name, target.out.span<float>());
  }
}

void ModelSource::ReadEach(const SourceTensor& tensor, Role role,
                           std::span<const PartTarget> parts) const {
  for (const PartTarget& target : parts) Read(tensor, role, target.part, target.out);
}

std::unique_ptr<ModelSource> OpenModelSource(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    throw BadData(path, -1, "does not exist", "check the path");
  }
  if (!std::filesystem::is_directory(path)) {
    if (LooksLikeGguf(path)) return OpenGguf(path);
    throw BadData(
        path, -1, "is a file, not a model",
        "give the directory: a Sepia checkpoint or run, a Hugging Face folder, or a GPT-NeoX "
        "checkpoint");
  }
  if (LooksLikeHfFolder(path)) return OpenHfFolder(path);
  if (const auto step = FindStepDirectory(path)) return OpenSepiaCheckpoint(*step);
  if (const auto folder = FindNeoxFolder(path)) return OpenNeoxFolder(*folder);
  throw BadData(path, -1, "no model is here",
                "expected a Sepia checkpoint or run directory, a Hugging Face folder with "
                "config.json and weights, or a GPT-NeoX checkpoint (layer_*, mp_rank_* files)");
}

}  // namespace sepia::checkpoint
