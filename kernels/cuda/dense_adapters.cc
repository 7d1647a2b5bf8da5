// Row-wise ops and the optimizer's: from tensors to device pointers.
#include <cmath>

#include "kernels/cuda/dense_ops.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.h"

namespace sepia::kernels::cuda {
namespace {

bool Adds(GradMode mode) { return mode == GradMode::kAccumulate; }

float* ColumnScratch(DeviceScratch& scratch, int64_t rows, int64_t columns) {
  return scratch.Take<float>("column sums", ColumnSumScratchBytes(rows, columns));
}

}  // namespace

void AddBiasResidualForward(Context&, const AddBiasResidualArgs& args) {
  AddBiasResidualForward(MainStream(), BiasResidualParams{.dtype = args.x.dtype(),
                                                          .rows = args.x.dim(0),
                                                          .columns = args.x.dim(1),
                                                          .x = Data(args.x),
                                                          .partial = Data(args.partial),
                                                          .bias1 = Data(args.bias1),
                                                          .bias2 = Data(args.bias2),
                                                          .y = Data(args.y)});
}

void AddBiasResidualBackward(Context& ctx, const AddBiasResidualBackwardArgs& args) {
  DeviceScratch scratch(ctx);
  SumColumns(MainStream(), {.dtype = args.dy.dtype(),
                            .rows = args.dy.dim(0),
                            .columns = args.dy.dim(1),
                            .x = Data(args.dy),
                            .sums = {Data<float>(args.dbias1), Data<float>(args.dbias2)},
                            .add = Adds(args.grad_mode),
                            .scratch = ColumnScratch(scratch, args.dy.dim(0), args.dy.dim(1))});
}

void Add(Context&, const AddArgs& args) {
  Add(MainStream(), args.a.dtype(), args.a.num_elements(), Data(args.a), Data(args.b),
      Data(args.y));
}

void Cast(Context&, const ConstTensorView& from, const TensorView& to) {
  Convert(MainStream(), from.num_elements(), from.dtype(), Data(from), to.dtype(), Data(to));
}

void Zero(Context&, const TensorView& y) { FillBytes(y, 0); }

void BiasGeluForward(Context&, const BiasGeluForwardArgs& args) {
  BiasGeluForward(MainStream(), BiasGeluParams{.dtype = args.x.dtype(),
                                               .rows = args.x.dim(0),
                                               .columns = args.x.dim(1),
                                               .use_erf = args.kind == GeluKind::kErf,
                                               .x = Data(args.x),
                                               .bias = Data(args.bias),
                                               .y = Data(args.y)});
}

void BiasGeluBackward(Context& ctx, const BiasGeluBackwardArgs& args) {
  DeviceScratch scratch(ctx);
  BiasGeluBackward(MainStream(),
                   BiasGeluParams{.dtype = args.x.dtype(),
                                  .rows = args.x.dim(0),
                                  .columns = args.x.dim(1),
                                  .use_erf = args.kind == GeluKind::kErf,
                                  .x = Data(args.x),
                                  .bias = Data(args.bias),
                                  .y = nullptr,
                                  .dy = Data(args.dy),
                                  .dx = Data(args.dx),
                                  .dbias = Data<float>(args.dbias),
                                  .add_grads = Adds(args.grad_mode),
                                  .scratch = ColumnScratch(scratch, args.x.dim(0), args.x.dim(1))});
  // The forward kernel reads and writes an element in the same thread: y may be x.
  if (args.y.empty()) return;
  cuda::BiasGeluForward(ctx, {.x = args.x, .bias = args.bias, .y = args.y, .kind = args.kind});
}

void LayerNormForward(Context&, const LayerNormForwardArgs& args) {
  LayerNormForward(MainStream(), LayerNormParams{.dtype = args.x.dtype(),
                                                 .rows = args.x.dim(0),
                                                 .columns = args.x.dim(1),
                                                 .x = Data(args.x),
                                                 .gamma = Data(args.gamma),
                                                 .beta = Data(args.beta),
                                                 .y = Data(args.y),
                                                 .mean = Data<float>(args.mean),
                                                 .rstd = Data<float>(args.rstd),
                                                 .eps = args.eps});
}

void LayerNormBackward(Context& ctx, const LayerNormBackwardArgs& args) {
  DeviceScratch scratch(ctx);
  LayerNormBackward(
      MainStream(),
      LayerNormParams{.dtype = args.x.dtype(),
                      .rows = args.x.dim(0),
                      .columns = args.x.dim(1),
                      .x = Data(args.x),
                      .gamma = Data(args.gamma),
                      .beta = nullptr,
                      .y = nullptr,
                      // Read, not written, by the backward pass.
                      .mean = const_cast<float*>(Data<float>(args.mean)),
                      .rstd = const_cast<float*>(Data<float>(args.rstd)),
                      .eps = 0,
                      .dy = Data(args.dy),
                      .dx = Data(args.dx),
                      .dgamma = Data<float>(args.dgamma),
                      .dbeta = Data<float>(args.dbeta),
                      .add_dx = Adds(args.dx_mode),
                      .add_grads = Adds(args.grad_mode),
                      .scratch = ColumnScratch(scratch, args.x.dim(0), args.x.dim(1))});
}

void SquaredNorm(Context& ctx, const SquaredNormArgs& args) {
  const int64_t size = args.x.num_elements();
  DeviceScratch scratch(ctx);
  SquaredNorm(MainStream(), SquaredNormParams{.size = size,
                                              .x = Data<float>(args.x),
                                              .sum = Data<double>(args.sum),
                                              .add = Adds(args.mode),
                                              .scratch = scratch.Take<double>(
                                                  "norm partials", SquaredNormScratchBytes(size))});
}

void ClipFactor(Context&, const ClipFactorArgs& args) {
  ClipFactor(MainStream(), ClipFactorParams{.squared_norm = Data<double>(args.squared_norm),
                                            .loss_scale = Data<float>(args.loss_scale),
                                            .clip = args.clip,
                                            .norm = Data<double>(args.norm),
                                            .grad_multiplier = Data<float>(args.grad_multiplier),
                                            .skip = Data<int32_t>(args.skip)});
}

void AdamWUpdate(Context&, const AdamWArgs& args) {
  const auto correction = [&](double beta) {
    return static_cast<float>(1.0 - std::pow(beta, static_cast<double>(args.t)));
  };
  const OptimizerState& state = args.state;
  AdamWUpdate(MainStream(), AdamWParams{.weight_dtype = state.weight.dtype(),
                                        .size = state.weight.num_elements(),
                                        .weight = Data(state.weight),
                                        .master = Data(state.master),
                                        .exp_avg = Data<float>(state.exp_avg),
                                        .exp_avg_sq = Data<float>(state.exp_avg_sq),
                                        .grad = Data<float>(args.grad),
                                        .grad_multiplier = Data<float>(args.grad_multiplier),
                                        .skip = Data<int32_t>(args.skip),
                                        .lr = static_cast<float>(args.lr),
                                        .beta1 = static_cast<float>(args.beta1),
                                        .beta2 = static_cast<float>(args.beta2),
                                        .eps = static_cast<float>(args.eps),
                                        .weight_decay = static_cast<float>(args.weight_decay),
                                        .one_minus_beta1 = static_cast<float>(1.0 - args.beta1),
                                        .one_minus_beta2 = static_cast<float>(1.0 - args.beta2),
                                        .correction1 = correction(args.beta1),
                                        .correction2 = correction(args.beta2)});
}

}  // namespace sepia::kernels::cuda
