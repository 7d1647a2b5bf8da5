#include "tools/sepia/step_roofline.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/random_tensor.h"
#include "trainer/flops.h"
#include "trainer/memory_plan.h"

namespace sepia::tools {

double RooflinePart::Seconds(double gflops, double gb_per_s) const {
  return std::max(flops / gflops, bytes / gb_per_s) / 1e9;
}

std::vector<RooflinePart> RooflineOfStep(const trainer::TrainSettings& settings, double density) {
  const model::ModelConfig& m = settings.model;
  const auto element = static_cast<double>(DTypeSize(settings.compute_dtype()));
  const auto rows = static_cast<double>(settings.batch.micro * settings.data.sequence_length);
  const auto width = static_cast<double>(m.hidden_size);
  const auto mlp = static_cast<double>(m.intermediate_size);
  const auto layers = static_cast<double>(m.num_layers);
  const auto head_weights = static_cast<double>(m.vocab_size) * width;
  const double block_weights = static_cast<double>(trainer::MatmulParameters(m)) - head_weights;
  trainer::AttentionWork attention =
      trainer::ExpectedAttentionWork(m, settings.data.sequence_length, density);
  attention.visited_pairs *= static_cast<double>(settings.batch.micro);

  // A weight is read by y = x W^T and by dx = dy W; its gradient is written in fp32.
  const double weight_bytes = 2 * element + 4;
  // Three products of a layer read or write its input twice and its output's gradient twice, write
  // the output and the input's gradient: 3 (K + N) a row; K + N of the four layers of a block:
  const double block_columns = (1 + 3) * width + 2 * width + 2 * (width + mlp);
  const double linear_bytes =
      block_weights * weight_bytes + layers * rows * element * 3 * block_columns;
  // Forward reads qkv and writes out; backward reads both and dout, writes dqkv.
  const double attention_bytes = layers * rows * element * (3 + 1 + 3 + 1 + 1 + 3) * width;
  // Chunks of logits stay in cache: x in, dx out.
  const double head_bytes = head_weights * weight_bytes + rows * element * 2 * width;
  // LayerNorms (x in, two results out, twice that backward), GeLU (in, out; two in, one out),
  // residual (three in, one out; and back).
  const double elementwise_bytes =
      layers * rows * element * (3 + 6 + 4 + 4) * width + layers * rows * element * (2 + 3) * mlp;
  // The norm reads the gradient; AdamW reads gradient, master and moments, writes the last three
  // and in bf16 the weight.
  const auto parameters = static_cast<double>(m.num_parameters());
  const double optimizer_bytes = parameters * (4 + 16 + 12 + (element < 4 ? element : 0));
  return {
      {"linear layers", 6 * block_weights * rows, linear_bytes},
      {"attention", 14 * width * attention.visited_pairs, attention_bytes},
      {"head and loss", 6 * head_weights * rows, head_bytes},
      {"elementwise", 0, elementwise_bytes},
      {"optimizer", 0, optimizer_bytes},
  };
}

double MemoryGbPerSecond(int num_threads) {
  constexpr int64_t kElements = int64_t{1} << 26;  // 256 MiB an array
  constexpr int64_t kGrain = 1 << 16;
  const OwnedTensor from = RandomTensor("bandwidth", DType::kFloat32, {kElements});
  const OwnedTensor to(DType::kFloat32, {kElements});
  const kernels::Context ctx = {.num_threads = num_threads};
  const auto scale = [&] {
    kernels::cpu::ParallelForRange(ctx, kElements, kGrain, [&](int64_t begin, int64_t end) {
      const float* x = from.data<float>();
      float* y = to.data<float>();
      for (int64_t i = begin; i < end; ++i) y[i] = 0.5f * x[i] + y[i];
    });
  };
  std::vector<double> rates;
  for (int i = 0; i < 6; ++i) {
    // Two reads and a write.
    rates.push_back(3 * 4 * static_cast<double>(kElements) / TimeOnce(scale) / 1e9);
  }
  return Summarize({rates.begin() + 1, rates.end()}).median;  // the first touches the pages
}

}  // namespace sepia::tools
