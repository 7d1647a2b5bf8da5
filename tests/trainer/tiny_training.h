// Training of a tiny SepLLM model as one rank of any layout, on any device: the curve, and what a
// checkpoint would hold.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"
#include "trainer/micro_steps.h"
#include "trainer/optimizer.h"

namespace sepia::testing {

inline constexpr char kTinyModel[] =
    "vocab_size: 96 hidden_size: 64 num_layers: 2 num_heads: 4 max_positions: 32 "
    "attention { kind: SEP window: 8 full_layers: 0 separator_ids: [3, 7, 11] } ";
inline constexpr int64_t kTinyRows = 5;  // of a micro-batch: 4 data ranks have 1, 1, 1 and 2
inline constexpr int64_t kTinyLength = 24;
inline constexpr int kTinyMicroBatches = 4;  // of a step, when none are joined
inline constexpr int64_t kTinyTokens = kTinyMicroBatches * kTinyRows * kTinyLength;  // of a step
inline constexpr int64_t kTinyChunkRows = 20;  // sequence parallelism has several chunks
inline constexpr double kTinyLearningRate = 3e-3;

struct TrainingLayout {
  int tensor = 1, data = 1, zero = 0;
  bool sequence = false;
  int accumulation = 1;
  bool overlap = true;
  Device device = Device::kCpu;
  kernels::FullAttention full_attention = kernels::FullAttention::kOwn;
  bool keep_gradients = false;  // more than one micro-batch keeps them in any case
  bool recompute = false;
  bool graphs = false;
};

struct TrainingCurve {
  std::vector<double> losses, grad_norms;
  std::map<std::string, std::vector<float>> first_weights, last_weights, last_moments;

  friend bool operator==(const TrainingCurve&, const TrainingCurve&) = default;
};

// The model of a layout.
model::ModelOptions TinyOptions(const TrainingLayout& layout, DType dtype);

// One rank's part of a run on batches that repeat every eight steps.
class TinyTraining {
 public:
  TinyTraining(const TrainingLayout& layout, DType dtype,
               std::unique_ptr<dist::Communicator> world);

  void Step(int step, TrainingCurve* curve);
  const trainer::AdamW& optimizer() const { return optimizer_; }
  const trainer::MicroSteps& micro_steps() const { return micro_steps_; }

 private:
  // This rank's rows of micro-batches [first, first + count), as one batch.
  Batch RowsOfRank(int step, int first, int count);

  TrainingLayout layout_;
  model::ModelConfig config_;
  dist::Mesh mesh_;
  model::GptNeox model_;
  kernels::Context ctx_;
  trainer::AdamW optimizer_;
  trainer::MicroSteps micro_steps_;
  OwnedTensor loss_sum_, grad_scale_;
};

// The curve of all ranks, as threads; they must agree. `counts`: of rank 0, with graphs.
TrainingCurve TrainTiny(const TrainingLayout& layout, int steps, DType dtype = DType::kFloat32,
                        kernels::GraphCounts* counts = nullptr);

}  // namespace sepia::testing
