#include "trainer/memory_plan.h"

#include "kernels/context.h"
#include "trainer/optimizer.h"
#include "trainer/step_traffic.h"

namespace sepia::trainer {

int NumThreads(const TrainSettings& settings) {
  return settings.threads > 0 ? settings.threads : kernels::DefaultNumThreads();
}

model::ModelOptions ModelOptionsOf(const TrainSettings& settings, int64_t data_ranks) {
  return {.compute_dtype = settings.compute_dtype(),
          .batch_size = settings.batch.micro,
          .seq_length = settings.data.sequence_length,
          .gradients = true,
          .shard_gradients = settings.parallel.zero_stage == 2,
          .recompute = settings.recompute,
          .sequence = settings.parallel.sequence,
          .keep_gradients = settings.batch.global > settings.batch.micro * data_ranks,
          .rotary_tables = settings.rotary_tables,
          .num_threads = NumThreads(settings),
          .device = settings.device,
          .full_attention = settings.full_attention,
          .graphs = settings.cuda_graphs};
}

RunMemory PlanMemory(const TrainSettings& settings, int64_t data_ranks) {
  const int64_t tensor = settings.parallel.tensor;
  const model::FlatLayout layout(model::ParameterTable(settings.model), tensor, data_ranks);
  const int64_t slices = settings.parallel.zero_stage == 0 ? 1 : data_ranks;
  return {.model = model::GptNeox::Plan(settings.model, ModelOptionsOf(settings, data_ranks),
                                        tensor, data_ranks),
          .optimizer = AdamW::PlanBytes(layout, settings.compute_dtype(), slices),
          .communication = CommunicationBytes(settings, data_ranks)};
}

}  // namespace sepia::trainer
