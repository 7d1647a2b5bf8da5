// Runs the tests of ops on a device: for each op an overload that takes a TestContext, which copies
// the op's tensors to kTestDevice, runs it there, and copies what it may have written back. Tests
// and oracles stay those of the host. Included by op_test.h.
#pragma once

#include <list>
#include <map>

#include "base/device_memory.h"
#include "kernels/cached_attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/gelu.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/lm_head.h"
#include "kernels/optimizer.h"
#include "kernels/rotary.h"

namespace sepia::kernels::testing {

// Copies of an op's tensors on the device. Arguments that are the same memory have one copy.
class OnTestDevice {
 public:
  OnTestDevice() = default;
  OnTestDevice(const OnTestDevice&) = delete;
  ~OnTestDevice() {
    for (const auto& [host, device] : outputs_) CopyTensor(device, host);
  }

  ConstTensorView operator()(const ConstTensorView& host) { return Find(host); }
  TensorView operator()(const TensorView& host) {
    const TensorView device = Find(host);
    if (host.raw() != nullptr) outputs_.emplace_back(host, device);
    return device;
  }

 private:
  TensorView Find(const ConstTensorView& host) {
    if (host.raw() == nullptr) {
      return TensorView(nullptr, host.dtype(), host.shape(), kTestDevice);
    }
    auto [found, is_new] = copies_.try_emplace(host.raw());
    if (is_new) {
      found->second = OwnedTensor(host.dtype(), host.shape(), kTestDevice);
      CopyTensor(host, found->second);
    }
    return found->second.view();
  }

  std::map<const void*, OwnedTensor> copies_;
  std::vector<std::pair<TensorView, TensorView>> outputs_;
};

}  // namespace sepia::kernels::testing

namespace sepia::kernels {

inline void CachedAttention(testing::TestContext& context, const CachedAttentionArgs& args) {
  testing::OnTestDevice on;
  const auto upload = [&](std::span<const int32_t> values) {
    const Shape shape = {static_cast<int64_t>(values.size())};
    return values.empty() ? ConstTensorView(on(ConstTensorView(nullptr, DType::kInt32, shape)))
                          : on(ConstTensorView::Of(values, shape));
  };
  CachedAttentionArgs device = {.qkv = on(args.qkv),
                                .begin = args.begin,
                                .index = args.index,
                                .window = args.window,
                                .keys = on(args.keys),
                                .values = on(args.values),
                                .out = on(args.out)};
  if (args.index != nullptr) {
    device.far_keys = {upload(args.index->positions(0)), upload(args.index->count(0))};
  }
  CachedAttention(static_cast<Context&>(context), device);
}

inline void AddBiasResidualForward(testing::TestContext& context, const AddBiasResidualArgs& args) {
  testing::OnTestDevice on;
  AddBiasResidualForward(static_cast<Context&>(context), {.x = on(args.x),
                                                          .partial = on(args.partial),
                                                          .bias1 = on(args.bias1),
                                                          .bias2 = on(args.bias2),
                                                          .y = on(args.y)});
}

inline void AddBiasResidualBackward(testing::TestContext& context,
                                    const AddBiasResidualBackwardArgs& args) {
  testing::OnTestDevice on;
  AddBiasResidualBackward(static_cast<Context&>(context), {.dy = on(args.dy),
                                                           .dbias1 = on(args.dbias1),
                                                           .dbias2 = on(args.dbias2),
                                                           .grad_mode = args.grad_mode});
}

inline void Add(testing::TestContext& context, const AddArgs& args) {
  testing::OnTestDevice on;
  Add(static_cast<Context&>(context), {.a = on(args.a), .b = on(args.b), .y = on(args.y)});
}

inline void Cast(testing::TestContext& context, ConstTensorView from, TensorView to) {
  testing::OnTestDevice on;
  Cast(static_cast<Context&>(context), on(from), on(to));
}

inline void Zero(testing::TestContext& context, TensorView y) {
  testing::OnTestDevice on;
  Zero(static_cast<Context&>(context), on(y));
}

inline void EmbeddingForward(testing::TestContext& context, const EmbeddingForwardArgs& args) {
  testing::OnTestDevice on;
  EmbeddingForward(static_cast<Context&>(context), {.tokens = on(args.tokens),
                                                    .table = on(args.table),
                                                    .y = on(args.y),
                                                    .vocabulary = args.vocabulary});
}

inline void EmbeddingBackward(testing::TestContext& context, const EmbeddingBackwardArgs& args) {
  testing::OnTestDevice on;
  EmbeddingBackward(static_cast<Context&>(context), {.tokens = on(args.tokens),
                                                     .dy = on(args.dy),
                                                     .dtable = on(args.dtable),
                                                     .grad_mode = args.grad_mode,
                                                     .vocabulary = args.vocabulary});
}

inline void BiasGeluForward(testing::TestContext& context, const BiasGeluForwardArgs& args) {
  testing::OnTestDevice on;
  BiasGeluForward(static_cast<Context&>(context),
                  {.x = on(args.x), .bias = on(args.bias), .y = on(args.y), .kind = args.kind});
}

inline void BiasGeluBackward(testing::TestContext& context, const BiasGeluBackwardArgs& args) {
  testing::OnTestDevice on;
  BiasGeluBackward(static_cast<Context&>(context), {.x = on(args.x),
                                                    .bias = on(args.bias),
                                                    .dy = on(args.dy),
                                                    .dx = on(args.dx),
                                                    .dbias = on(args.dbias),
                                                    .y = on(args.y),
                                                    .kind = args.kind,
                                                    .grad_mode = args.grad_mode});
}

inline void LayerNormForward(testing::TestContext& context, const LayerNormForwardArgs& args) {
  testing::OnTestDevice on;
  LayerNormForward(static_cast<Context&>(context), {.x = on(args.x),
                                                    .gamma = on(args.gamma),
                                                    .beta = on(args.beta),
                                                    .y = on(args.y),
                                                    .mean = on(args.mean),
                                                    .rstd = on(args.rstd),
                                                    .eps = args.eps});
}

inline void LayerNormBackward(testing::TestContext& context, const LayerNormBackwardArgs& args) {
  testing::OnTestDevice on;
  LayerNormBackward(static_cast<Context&>(context), {.x = on(args.x),
                                                     .gamma = on(args.gamma),
                                                     .mean = on(args.mean),
                                                     .rstd = on(args.rstd),
                                                     .dy = on(args.dy),
                                                     .dx = on(args.dx),
                                                     .dgamma = on(args.dgamma),
                                                     .dbeta = on(args.dbeta),
                                                     .dx_mode = args.dx_mode,
                                                     .grad_mode = args.grad_mode});
}

inline void LinearForward(testing::TestContext& context, const LinearForwardArgs& args) {
  testing::OnTestDevice on;
  const Weight weight{.canonical = on(args.weight.canonical)};
  LinearForward(static_cast<Context&>(context), {.x = on(args.x),
                                                 .weight = weight,
                                                 .bias = on(args.bias),
                                                 .y = on(args.y),
                                                 .mode = args.mode});
}

inline void LinearBackward(testing::TestContext& context, const LinearBackwardArgs& args) {
  testing::OnTestDevice on;
  const Weight weight{.canonical = on(args.weight.canonical)};
  LinearBackward(static_cast<Context&>(context), {.x = on(args.x),
                                                  .weight = weight,
                                                  .dy = on(args.dy),
                                                  .dx = on(args.dx),
                                                  .dweight = on(args.dweight),
                                                  .dbias = on(args.dbias),
                                                  .dx_mode = args.dx_mode,
                                                  .grad_mode = args.grad_mode});
}

inline void LmHeadLoss(testing::TestContext& context, const LmHeadLossArgs& args) {
  testing::OnTestDevice on;
  const Weight weight{.canonical = on(args.weight.canonical)};
  const auto gather = [&](ConstTensorView own, TensorView all) {
    const OwnedTensor host_all = OnHost(all);
    args.gather_statistics(OnHost(own), host_all);
    CopyTensor(host_all, all);
  };
  LmHeadLossArgs device = {.x = on(args.x),
                           .weight = weight,
                           .targets = on(args.targets),
                           .loss_mask = on(args.loss_mask),
                           .loss_sum = on(args.loss_sum),
                           .loss_mode = args.loss_mode,
                           .grad_scale = on(args.grad_scale),
                           .dx = on(args.dx),
                           .dweight = on(args.dweight),
                           .grad_mode = args.grad_mode,
                           .vocabulary = args.vocabulary};
  if (args.gather_statistics) device.gather_statistics = gather;
  LmHeadLoss(static_cast<Context&>(context), device);
}

inline void LmHeadLogits(testing::TestContext& context, const LmHeadLogitsArgs& args) {
  testing::OnTestDevice on;
  const Weight weight{.canonical = on(args.weight.canonical)};
  LmHeadLogits(static_cast<Context&>(context),
               {.x = on(args.x), .weight = weight, .logits = on(args.logits)});
}

inline void SquaredNorm(testing::TestContext& context, const SquaredNormArgs& args) {
  testing::OnTestDevice on;
  SquaredNorm(static_cast<Context&>(context),
              {.x = on(args.x), .sum = on(args.sum), .mode = args.mode});
}

inline void ClipFactor(testing::TestContext& context, const ClipFactorArgs& args) {
  testing::OnTestDevice on;
  ClipFactor(static_cast<Context&>(context), {.squared_norm = on(args.squared_norm),
                                              .loss_scale = on(args.loss_scale),
                                              .clip = args.clip,
                                              .norm = on(args.norm),
                                              .grad_multiplier = on(args.grad_multiplier),
                                              .skip = on(args.skip)});
}

inline void AdamWUpdate(testing::TestContext& context, const AdamWArgs& args) {
  testing::OnTestDevice on;
  AdamWArgs device = args;
  device.state = {.weight = on(args.state.weight),
                  .master = on(args.state.master),
                  .exp_avg = on(args.state.exp_avg),
                  .exp_avg_sq = on(args.state.exp_avg_sq)};
  device.grad = on(args.grad);
  device.grad_multiplier = on(args.grad_multiplier);
  device.skip = on(args.skip);
  AdamWUpdate(static_cast<Context&>(context), device);
}

inline void RotaryForward(testing::TestContext& context, const RotaryArgs& args) {
  testing::OnTestDevice on;
  RotaryForward(static_cast<Context&>(context),
                {.qkv = on(args.qkv), .cos = on(args.cos), .sin = on(args.sin)});
}

inline void RotaryBackward(testing::TestContext& context, const RotaryArgs& args) {
  testing::OnTestDevice on;
  RotaryBackward(static_cast<Context&>(context),
                 {.qkv = on(args.qkv), .cos = on(args.cos), .sin = on(args.sin)});
}

}  // namespace sepia::kernels
