#include "trainer/step_work.h"

#include "model/sharding.h"
#include "trainer/flops.h"

namespace sepia::trainer {
namespace {

// Elements of a tensor rank's shard, without padding.
double ShardElements(const model::ModelConfig& config, int64_t tensor) {
  int64_t elements = 0;
  const model::ParameterTable table(config);
  for (const model::ParamSpec& spec : table.specs()) {
    elements += PartOfTensorRank(spec, 0, tensor).shape.num_elements();
  }
  return static_cast<double>(elements);
}

}  // namespace

StepWork WorkOfRank(const TrainSettings& settings, int64_t data_ranks, double density) {
  const model::ModelConfig& m = settings.model;
  const auto tensor = static_cast<double>(settings.parallel.tensor);
  // Ranks over which the residual stream is cut.
  const double sequence = settings.parallel.sequence ? tensor : 1;
  const auto element = static_cast<double>(DTypeSize(settings.compute_dtype()));
  const auto rows = static_cast<double>(settings.batch.micro * settings.data.sequence_length);
  const auto width = static_cast<double>(m.hidden_size);
  const auto mlp = static_cast<double>(m.intermediate_size);
  const auto layers = static_cast<double>(m.num_layers);
  const double head_weights = static_cast<double>(m.vocab_size) * width / tensor;
  const double block_weights = static_cast<double>(MatmulParameters(m)) / tensor - head_weights;
  AttentionWork attention = ExpectedAttentionWork(m, settings.data.sequence_length, density);
  attention.visited_pairs *= static_cast<double>(settings.batch.micro);
  // Blocks that run forward a second time; the last one's activations are still there.
  const double again = settings.recompute ? (layers - 1) / layers : 0;

  // A weight is read by y = x W^T and by dx = dy W; its gradient is written in fp32.
  const double weight_bytes = 2 * element + 4;
  // Three products of a layer read or write its input twice and its output's gradient twice, write
  // the output and the input's gradient: 3 (K + N) a row, of which forward is a third. K + N of the
  // four layers of a block:
  const double block_columns = (width + 3 * width / tensor) + (width / tensor + width) +
                               (width + mlp / tensor) + (mlp / tensor + width);
  const double linear_bytes = block_weights * (weight_bytes + again * element) +
                              layers * rows * element * (3 + again) * block_columns;
  // Forward reads qkv and writes out; backward reads both and dout, writes dqkv.
  const double attention_bytes =
      layers * rows * element * (3 + 1 + 3 + 1 + 1 + 3 + 4 * again) * width / tensor;
  // Chunks of logits stay in cache: x in, dx out.
  const double head_bytes = head_weights * weight_bytes + rows * element * 2 * width;
  // LayerNorms (x in, two results out, twice that backward) of all rows, again in backward where
  // sequence parallelism keeps no results; residual (three in, one out; and back) of the own rows;
  // GeLU (in, out; two in, its gradient and its result out).
  const double norms = 3 + 6 + (settings.parallel.sequence ? 3 : 0) + 3 * again;
  const double residual = (4 + 4 + 4 * again) / sequence;
  const double elementwise_bytes = layers * rows * element * (norms + residual) * width +
                                   layers * rows * element * (2 + 4 + 2 * again) * mlp / tensor;
  // The norm reads the gradient; AdamW reads gradient, master and moments, writes the last three
  // and in fp16 the weight (in bf16 it is a half of the master).
  const double share = settings.parallel.zero_stage > 0 ? static_cast<double>(data_ranks) : 1;
  const double parameters = ShardElements(m, settings.parallel.tensor) / share;
  const double optimizer_bytes =
      parameters * (4 + 16 + 12 + (settings.compute_dtype() == DType::kFloat16 ? 2 : 0));
  return {
      .linear = {"linear layers", (6 + 2 * again) * block_weights * rows, linear_bytes},
      .attention = {"attention", (14 + 4 * again) * width * attention.visited_pairs / tensor,
                    attention_bytes},
      .head = {"head and loss", 6 * head_weights * rows, head_bytes},
      .elementwise = {"elementwise", 0, elementwise_bytes},
      .optimizer = {"optimizer", 0, optimizer_bytes},
  };
}

}  // namespace sepia::trainer
