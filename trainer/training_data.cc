#include "trainer/training_data.h"

#include <utility>

#include "base/error.h"
#include "model/model_config.h"
#include "trainer/evaluation.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {

data::Datasets OpenDatasets(const LoadedConfig& config, const std::string& fallback_cache_dir) {
  const TrainSettings& settings = config.settings;
  data::DatasetOptions options;
  options.train_samples = settings.schedule.total_steps * settings.batch.global;
  options.valid_samples = NumValidationSamples(settings);
  options.seq_length = settings.data.sequence_length;
  options.seed = static_cast<int64_t>(settings.seed);
  options.fallback_cache_dir = fallback_cache_dir;
  data::Datasets datasets = data::BuildDatasets(config.resolved->data(), options);
  if (datasets.train == nullptr) {
    throw UserError(
        "data: there is nothing to train on; name a dataset in data.train, or give "
        "training documents a share in data.split");
  }
  return datasets;
}

data::BatchLoaderOptions LoaderOptions(const TrainSettings& settings, dist::Mesh& mesh,
                                       std::shared_ptr<const data::Dataset> dataset,
                                       int64_t consumed_samples) {
  data::BatchLoaderOptions options;
  options.dataset = std::move(dataset);
  options.global_batch = settings.batch.global;
  options.micro_batch = settings.batch.micro;
  options.shard = mesh.data().rank();
  options.num_shards = mesh.data().size();
  options.consumed_samples = consumed_samples;
  options.attention_indexes = model::MakeAttentionPlan(settings.model).specs;
  options.mask_eod_loss = settings.data.mask_eod_loss;
  options.eod_id = settings.data.eod_id;
  options.vocab_size = settings.model.vocab_size;
  options.prefetch = settings.data.prefetch;
  return options;
}

}  // namespace sepia::trainer
