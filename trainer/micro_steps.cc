#include "trainer/micro_steps.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "base/check.h"

namespace sepia::trainer {
namespace {

model::GptNeox::BackwardArgs BackwardArgsOf(const MicroSteps::Args& args, int64_t i,
                                            GradientReducer::Gradients gradients) {
  return {.grad_scale = args.grad_scale,
          .loss_sum = args.loss_sum,
          .loss_mode = i == 0 ? GradMode::kOverwrite : GradMode::kAccumulate,
          .grad_mode = gradients.mode,
          .gradients_ready = std::move(gradients.ready)};
}

int64_t AddressOf(const ConstTensorView& tensor) {
  return static_cast<int64_t>(reinterpret_cast<intptr_t>(tensor.raw()));
}

}  // namespace

std::string GraphRange::Describe() const {
  const std::string why = left_out.empty() ? "" : ": " + left_out;
  if (empty()) return fmt::format("no micro-batch as a CUDA graph{}", why);
  const std::string which =
      end - first == count ? fmt::format("all {} micro-batches", count)
                           : fmt::format("micro-batches {} to {} of {}", first + 1, end, count);
  return fmt::format("{} of a step as CUDA graphs{}", which, why);
}

GraphRange MicroBatchesAsGraphs(const ParallelSettings& parallel, int64_t data_ranks,
                                int64_t count) {
  GraphRange range = {.end = count, .count = count};
  if (parallel.tensor > 1) {
    return {.count = count, .left_out = "each exchanges sums with the other tensor ranks"};
  }
  if (parallel.zero_stage == 2) {
    return {.count = count, .left_out = "ZeRO-2 reduces gradients in each"};
  }
  if (data_ranks == 1 || !parallel.overlap) return range;
  range.left_out = "the last reduces gradients while it computes";
  if (parallel.zero_stage == 1) {
    range.left_out = "the first waits for weights, " + range.left_out;
    range.first = std::min<int64_t>(1, count);
  }
  range.end = std::max(range.first, count - 1);
  return range;
}

MicroSteps::MicroSteps(model::GptNeox& model, AdamW& optimizer, const GraphRange& graphs)
    : model_(model), optimizer_(optimizer), range_(graphs) {
  if (range_.empty()) return;
  CHECK(model.options().graphs && !model.options().shard_gradients);
  graphs_ = std::make_unique<kernels::DeviceGraphs>(model.options().device);
}

void MicroSteps::Run(kernels::Context& ctx, std::span<const Batch> batches, const Args& args) {
  const auto count = static_cast<int64_t>(batches.size());
  if (count > 0) model_.Prefetch(batches[0]);
  for (int64_t i = 0; i < count; ++i) {
    const Batch& batch = batches[static_cast<size_t>(i)];
    if (graphs_ != nullptr && range_.contains(i) && batch.batch_size > 0) {
      RunGraph(ctx, batch, i, count, args);
    } else {
      RunOpByOp(ctx, batch, i, count, args);
    }
    if (i + 1 < count) model_.Prefetch(batches[static_cast<size_t>(i + 1)]);
  }
}

void MicroSteps::RunOpByOp(kernels::Context& ctx, const Batch& batch, int64_t i, int64_t count,
                           const Args& args) {
  if (args.phase) args.phase("forward");
  model_.Forward(ctx, batch, optimizer_.weights_needed(ctx));
  const GradientReducer::Gradients gradients = optimizer_.MicroBatch(ctx, i, count);
  if (args.phase) args.phase("backward");
  model_.Backward(ctx, batch, BackwardArgsOf(args, i, gradients));
}

// Gradients that are ready are not announced: the optimizer reduces what nobody has announced.
void MicroSteps::RunGraph(kernels::Context& ctx, const Batch& batch, int64_t i, int64_t count,
                          const Args& args) {
  if (args.phase) args.phase("forward");
  model_.Load(batch);
  const GradMode mode = optimizer_.MicroBatch(ctx, i, count).mode;
  if (args.phase) args.phase("backward");
  kernels::GraphKey key = model_.KeyOf(batch);
  for (const int64_t part :
       {static_cast<int64_t>(mode), static_cast<int64_t>(i == 0), ctx.scratch->Mark(),
        AddressOf(args.grad_scale), AddressOf(args.loss_sum)}) {
    key.shape.push_back(part);
  }
  graphs_->Run(key, [&] {
    model_.ForwardLoaded(ctx, batch);
    model_.Backward(ctx, batch, BackwardArgsOf(args, i, {.mode = mode, .ready = nullptr}));
  });
}

}  // namespace sepia::trainer
