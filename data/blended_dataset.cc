#include "data/blended_dataset.h"

#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/sha256.h"

namespace sepia::data {
namespace {

int64_t TotalLength(const std::vector<std::shared_ptr<const Dataset>>& parts) {
  int64_t total = 0;
  for (const auto& part : parts) total += part->length();
  if (total > 0) return total;
  throw UserError(ExitCode::kBadData,
                  fmt::format("{}: a single sample; GPT-NeoX counts such a dataset as empty",
                              parts.front()->Describe()));
}

}  // namespace

BlendedDataset::BlendedDataset(std::vector<std::shared_ptr<const Dataset>> parts,
                               std::vector<double> weights)
    : parts_(std::move(parts)),
      weights_(std::move(weights)),
      order_(weights_, TotalLength(parts_)) {
  CHECK_EQ(parts_.size(), weights_.size());
}

int64_t BlendedDataset::SamplesPerPass(int64_t global_batch) const {
  return length() < global_batch ? length() : length() / global_batch * global_batch;
}

void BlendedDataset::Sample(int64_t k, std::span<int32_t> tokens) const {
  CHECK_GE(k, 0);
  const BlendOrder::Source source = order_.At(k % length());
  parts_[static_cast<size_t>(source.dataset)]->Sample(source.sample, tokens);
}

TokenPlace BlendedDataset::Place(int64_t k, int64_t position) const {
  CHECK_GE(k, 0);
  const BlendOrder::Source source = order_.At(k % length());
  return parts_[static_cast<size_t>(source.dataset)]->Place(source.sample, position);
}

std::string BlendedDataset::Fingerprint() const {
  Sha256 digest;
  digest.Update("blend 1\n");
  for (size_t i = 0; i < parts_.size(); ++i) {
    digest.Update(fmt::format("{:a} {}\n", weights_[i], parts_[i]->Fingerprint()));
  }
  return digest.FinishHex();
}

std::string BlendedDataset::Describe() const {
  if (parts_.size() == 1) return parts_.front()->Describe();
  std::string text = fmt::format("blend of {} samples", length());
  for (size_t i = 0; i < parts_.size(); ++i) {
    text += fmt::format("; {:.4f} x {}", weights_[i], parts_[i]->Describe());
  }
  return text;
}

}  // namespace sepia::data
