#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "data/blend.h"
#include "data/blended_dataset.h"
#include "data/data_config.pb.h"
#include "data/dataset.h"
#include "data/index_map_cache.h"
#include "data/linear_dataset.h"
#include "data/neox_dataset.h"
#include "data/split.h"

namespace sepia::data {
namespace {

using Sources = google::protobuf::RepeatedPtrField<config::DataSource>;

// A range of sequences of one dataset.
struct Part {
  std::shared_ptr<const IndexedDataset> dataset;
  int64_t first = 0;
  int64_t end = 0;
  double weight = 1;
};

class Builder {
 public:
  Builder(const config::DataConfig& config, const DatasetOptions& options)
      : config_(config),
        seq_length_(options.seq_length > 0 ? options.seq_length : config.sequence_length()),
        folders_{.cache_dir = config.cache_dir(), .fallback = options.fallback_cache_dir} {
    if (seq_length_ <= 0) throw UserError("data.sequence_length must be positive");
    const int64_t seed = config.has_seed() ? config.seed() : options.seed;
    if (seed < 0 || seed > std::numeric_limits<uint32_t>::max()) {
      throw UserError(
          fmt::format("seed {}: NeoX's shuffle takes 0 to 4294967295; set data.seed", seed));
    }
    seed_ = static_cast<uint32_t>(seed);
  }

  // Separate datasets: every sequence of each; samples are asked for with 0.5 % to spare.
  std::shared_ptr<const Dataset> FromPaths(const Sources& sources, const std::string& name,
                                           int64_t num_samples) {
    if (sources.empty() || num_samples == 0) return nullptr;
    std::vector<Part> parts;
    for (const config::DataSource& source : sources) {
      auto dataset = Open(source);
      const int64_t end = dataset->num_sequences();
      parts.push_back({.dataset = std::move(dataset), .end = end, .weight = source.weight()});
    }
    return Blend(std::move(parts), name, num_samples);
  }

  // One split of datasets that are cut up. `split`: 0 train, 1 valid, 2 test.
  std::shared_ptr<const Dataset> FromSplit(size_t split, const std::string& name,
                                           int64_t num_samples) {
    if (num_samples == 0) return nullptr;
    std::vector<Part> parts;
    for (const config::DataSource& source : config_.source()) {
      auto dataset = Open(source);
      const SplitBounds bounds = SplitDocuments(config_.split(), dataset->num_sequences());
      if (bounds[split] == bounds[split + 1]) continue;
      parts.push_back({.dataset = std::move(dataset),
                       .first = bounds[split],
                       .end = bounds[split + 1],
                       .weight = source.weight()});
    }
    if (parts.empty()) return nullptr;
    // GPT-NeoX cuts up a single dataset only, and then asks for exactly the samples it needs.
    if (config_.source_size() == 1) return Make(parts.front(), name, num_samples);
    return Blend(std::move(parts), name, num_samples);
  }

 private:
  std::shared_ptr<const IndexedDataset> Open(const config::DataSource& source) {
    if (source.prefix().empty()) throw UserError("data: a source without a prefix");
    auto& dataset = opened_[source.prefix()];
    if (dataset == nullptr) dataset = std::make_shared<const IndexedDataset>(source.prefix());
    return dataset;
  }

  std::shared_ptr<const Dataset> Make(const Part& part, const std::string& name,
                                      int64_t num_samples) const {
    if (config_.order() == config::DataConfig::LINEAR) {
      return std::make_shared<const LinearDataset>(part.dataset, part.first, part.end, seq_length_);
    }
    const IndexMapSpec spec{.first_document = part.first,
                            .end_document = part.end,
                            .num_samples = num_samples,
                            .seq_length = seq_length_,
                            .seed = seed_};
    return std::make_shared<const NeoxDataset>(part.dataset,
                                               OpenIndexMaps(*part.dataset, spec, name, folders_));
  }

  std::vector<double> Weights(const std::vector<Part>& parts) const {
    if (config_.has_blend_by_num_docs_alpha()) {
      std::vector<int64_t> documents;
      for (const Part& part : parts) documents.push_back(part.dataset->num_sequences());
      return NormalizedWeights(WeightsByNumDocuments(documents, config_.blend_by_num_docs_alpha()));
    }
    std::vector<double> weights;
    double sum = 0;
    for (const Part& part : parts) {
      if (!(part.weight >= 0)) {
        throw UserError(fmt::format("data: weight {} of {} is not a positive number", part.weight,
                                    part.dataset->prefix()));
      }
      weights.push_back(part.weight);
      sum += part.weight;
    }
    if (!(sum > 0)) throw UserError("data: all weights of a blend are 0");
    return NormalizedWeights(weights);
  }

  std::shared_ptr<const Dataset> Blend(std::vector<Part> parts, const std::string& name,
                                       int64_t num_samples) const {
    if (static_cast<int64_t>(parts.size()) > BlendOrder::kMaxDatasets) {
      throw UserError(fmt::format("data: {} datasets in a blend; at most {} are possible",
                                  parts.size(), BlendOrder::kMaxDatasets));
    }
    std::vector<double> weights = Weights(parts);
    const std::vector<int64_t> samples = SamplesPerDataset(weights, num_samples);
    std::vector<std::shared_ptr<const Dataset>> datasets;
    for (size_t i = 0; i < parts.size(); ++i) {
      datasets.push_back(Make(parts[i], fmt::format("{}_{}", name, i), samples[i]));
    }
    return std::make_shared<const BlendedDataset>(std::move(datasets), std::move(weights));
  }

  const config::DataConfig& config_;
  int64_t seq_length_;
  uint32_t seed_ = 0;
  IndexMapFolders folders_;
  std::map<std::string, std::shared_ptr<const IndexedDataset>> opened_;
};

void LogDataset(const char* name, const std::shared_ptr<const Dataset>& dataset) {
  if (dataset != nullptr) LogInfo("{} data: {}", name, dataset->Describe());
}

}  // namespace

Datasets BuildDatasets(const config::DataConfig& config, const DatasetOptions& options) {
  const bool separate = config.train_size() + config.valid_size() + config.test_size() > 0;
  if (separate && config.source_size() > 0) {
    throw UserError("data: give either source (cut up by split) or train/valid/test, not both");
  }
  Builder builder(config, options);
  Datasets datasets;
  if (separate) {
    datasets.train = builder.FromPaths(config.train(), "train", options.train_samples);
    datasets.valid = builder.FromPaths(config.valid(), "valid", options.valid_samples);
    datasets.test = builder.FromPaths(config.test(), "test", options.test_samples);
  } else {
    datasets.train = builder.FromSplit(0, "train", options.train_samples);
    datasets.valid = builder.FromSplit(1, "valid", options.valid_samples);
    datasets.test = builder.FromSplit(2, "test", options.test_samples);
  }
  LogDataset("training", datasets.train);
  LogDataset("validation", datasets.valid);
  LogDataset("test", datasets.test);
  return datasets;
}

}  // namespace sepia::data
