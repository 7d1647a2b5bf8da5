// Forward and backward of a step's micro-batches: op by op, or on a GPU as CUDA graphs.
//
// While the device computes on one micro-batch, the next one is copied to it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/batch.h"
#include "kernels/context.h"
#include "kernels/device_graphs.h"
#include "model/gpt_neox.h"
#include "trainer/optimizer.h"
#include "trainer/settings.h"

namespace sepia::trainer {

// Which of a step's micro-batches run as graphs: [first, end) of `count`. Those that talk to other
// ranks do not; `left_out` says which and why, or is empty.
struct GraphRange {
  int64_t first = 0, end = 0, count = 0;
  std::string left_out = {};

  bool contains(int64_t i) const { return first <= i && i < end; }
  bool empty() const { return first == end; }
  // "micro-batches 2 to 7 of 8 as CUDA graphs; ..."
  std::string Describe() const;
};
GraphRange MicroBatchesAsGraphs(const ParallelSettings& parallel, int64_t data_ranks,
                                int64_t count);

// Not thread-safe; one per rank, calls are collective.
class MicroSteps {
 public:
  // References must outlive it. `graphs`: where it is empty, everything runs op by op; the model
  // must have been built with ModelOptions::graphs otherwise.
  MicroSteps(model::GptNeox& model, AdamW& optimizer, const GraphRange& graphs = {});

  struct Args {
    ConstTensorView grad_scale;                             // as GptNeox::BackwardArgs
    TensorView loss_sum;                                    // of all micro-batches; overwritten
    std::function<void(const char* name)> phase = nullptr;  // called as "forward", "backward" begin
  };
  // Leaves the gradients of all batches to AdamW::MeasureGradients.
  void Run(kernels::Context& ctx, std::span<const Batch> batches, const Args& args);

  const GraphRange& graph_range() const { return range_; }
  // Null without graphs.
  const kernels::DeviceGraphs* graphs() const { return graphs_.get(); }

 private:
  void RunOpByOp(kernels::Context& ctx, const Batch& batch, int64_t i, int64_t count,
                 const Args& args);
  void RunGraph(kernels::Context& ctx, const Batch& batch, int64_t i, int64_t count,
                const Args& args);

  model::GptNeox& model_;
  AdamW& optimizer_;
  GraphRange range_;
  std::unique_ptr<kernels::DeviceGraphs> graphs_;
};

}  // namespace sepia::trainer
