// The datasets of a run and the loaders over them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "data/batch_loader.h"
#include "data/dataset.h"
#include "dist/mesh.h"
#include "trainer/config.h"

namespace sepia::trainer {

// Opens what the config names, sized for the whole run. Throws UserError(kUsage) when there is
// nothing to train on. `valid` is null when the config names nothing to validate on.
data::Datasets OpenDatasets(const LoadedConfig& config, const std::string& fallback_cache_dir);

// A loader of this data rank that begins after `consumed_samples` samples of all ranks.
data::BatchLoaderOptions LoaderOptions(const TrainSettings& settings, dist::Mesh& mesh,
                                       std::shared_ptr<const data::Dataset> dataset,
                                       int64_t consumed_samples);

}  // namespace sepia::trainer
