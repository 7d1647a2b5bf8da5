#include "trainer/optimizer.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "kernels/elementwise.h"
#include "kernels/optimizer.h"

namespace sepia::trainer {
namespace {

std::vector<Shape> LocalShapes(model::GptNeox& model) {
  std::vector<Shape> shapes;
  for (size_t i = 0; i < model.parameters().specs().size(); ++i) {
    shapes.push_back(model.weight(static_cast<int>(i)).shape());
  }
  return shapes;
}

}  // namespace

std::vector<AdamW::Slot> AdamW::Allocate(Arena& arena, const std::vector<Shape>& shapes,
                                         std::span<const model::ParamSpec> specs, bool own_master) {
  std::vector<Slot> slots(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    const std::string& name = specs[i].name;
    if (own_master) slots[i].master = arena.Allocate("master." + name, DType::kFloat32, shapes[i]);
    slots[i].exp_avg = arena.Allocate("exp_avg." + name, DType::kFloat32, shapes[i]);
    slots[i].exp_avg_sq = arena.Allocate("exp_avg_sq." + name, DType::kFloat32, shapes[i]);
  }
  return slots;
}

int64_t AdamW::PlanBytes(const model::ModelConfig& config, DType compute_dtype) {
  const model::ParameterTable table(config);
  std::vector<Shape> shapes;
  for (const model::ParamSpec& spec : table.specs()) shapes.push_back(spec.shape);
  Arena counting("optimizer");
  Allocate(counting, shapes, table.specs(), compute_dtype != DType::kFloat32);
  return counting.used_bytes();
}

AdamW::AdamW(const OptimizerSettings& settings, model::GptNeox& model, dist::Mesh& mesh)
    : settings_(settings),
      model_(model),
      mesh_(mesh),
      master_is_weight_(model.options().compute_dtype == DType::kFloat32),
      arena_("optimizer"),
      squared_norm_(DType::kFloat64, {1}),
      loss_scale_(DType::kFloat32, {1}),
      norm_(DType::kFloat64, {1}),
      grad_multiplier_(DType::kFloat32, {1}),
      skip_(DType::kInt32, {1}) {
  const auto specs = model.parameters().specs();
  const std::vector<Shape> shapes = LocalShapes(model);
  Allocate(arena_, shapes, specs, !master_is_weight_);
  arena_ = Arena("optimizer", arena_.used_bytes());
  slots_ = Allocate(arena_, shapes, specs, !master_is_weight_);
  kernels::Context ctx;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (master_is_weight_) slots_[i].master = model.weight(static_cast<int>(i));
    kernels::Zero(ctx, slots_[i].exp_avg);
    kernels::Zero(ctx, slots_[i].exp_avg_sq);
  }
}

void AdamW::InitializeWeights(kernels::Context& ctx, uint64_t seed) {
  CHECK_EQ(mesh_.tensor().size(), 1);
  const auto specs = model_.parameters().specs();
  for (size_t i = 0; i < slots_.size(); ++i) {
    model::InitializeParameter(specs[i], seed, ctx.num_threads, slots_[i].master);
  }
  WeightsLoaded(ctx);
}

void AdamW::WeightsLoaded(kernels::Context& ctx) {
  for (size_t i = 0; i < slots_.size(); ++i) {
    const int index = static_cast<int>(i);
    if (master_is_weight_) {
      model_.WeightChanged(index);
    } else {
      model_.SetWeight(ctx, index, slots_[i].master);
    }
  }
}

void AdamW::MeasureGradients(kernels::Context& ctx, double loss_scale) {
  Timer timer;
  mesh_.data().AllReduce(ctx, model_.grads(), dist::ReduceOp::kSum, "gradients").Wait();
  comm_seconds_ += timer.Seconds();
  kernels::Zero(ctx, squared_norm_);
  const auto specs = model_.parameters().specs();
  for (size_t i = 0; i < slots_.size(); ++i) {
    // Every tensor rank holds all of a replicated parameter: the first one speaks for it.
    const bool replicated = specs[i].placement == model::Placement::kReplicated;
    if (replicated && mesh_.tensor().rank() != 0) continue;
    kernels::SquaredNorm(ctx, {.x = model_.grad(static_cast<int>(i)),
                               .sum = squared_norm_,
                               .mode = GradMode::kAccumulate});
  }
  timer.Lap();
  mesh_.tensor().AllReduce(ctx, squared_norm_, dist::ReduceOp::kSum, "gradient norm").Wait();
  comm_seconds_ += timer.Seconds();
  *loss_scale_.data<float>() = static_cast<float>(loss_scale);
  kernels::ClipFactor(ctx, {.squared_norm = squared_norm_,
                            .loss_scale = loss_scale_,
                            .clip = settings_.clip,
                            .norm = norm_,
                            .grad_multiplier = grad_multiplier_,
                            .skip = skip_});
}

double AdamW::grad_norm() const { return *norm_.data<double>(); }

bool AdamW::non_finite() const { return *skip_.data<int32_t>() != 0; }

void AdamW::Update(kernels::Context& ctx, double lr) {
  CHECK(!non_finite());
  ++updates_;
  const auto specs = model_.parameters().specs();
  for (size_t i = 0; i < slots_.size(); ++i) {
    const int index = static_cast<int>(i);
    kernels::AdamWUpdate(ctx, {.master = slots_[i].master,
                               .exp_avg = slots_[i].exp_avg,
                               .exp_avg_sq = slots_[i].exp_avg_sq,
                               .grad = model_.grad(index),
                               .weight = master_is_weight_ ? TensorView() : model_.weight(index),
                               .grad_multiplier = grad_multiplier_,
                               .skip = skip_,
                               .lr = lr,
                               .beta1 = settings_.beta1,
                               .beta2 = settings_.beta2,
                               .eps = settings_.eps,
                               .weight_decay = specs[i].weight_decay ? settings_.weight_decay : 0,
                               .t = updates_});
    model_.WeightChanged(index);
  }
}

NamedTensor AdamW::Named(size_t i, TensorView view) const {
  const model::ParamSpec& spec = model_.parameters().specs()[i];
  std::vector<int64_t> offset(static_cast<size_t>(spec.shape.rank()), 0);
  const bool cut = spec.placement != model::Placement::kReplicated;
  const int dim = spec.placement == model::Placement::kRow ? 1 : 0;
  if (cut) offset[static_cast<size_t>(dim)] = mesh_.tensor().rank() * view.dim(dim);
  return {spec.hf_name, view, spec.shape, std::move(offset)};
}

std::vector<NamedTensor> AdamW::Masters() const {
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < slots_.size(); ++i) tensors.push_back(Named(i, slots_[i].master));
  return tensors;
}

std::vector<NamedTensor> AdamW::FirstMoments() const {
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < slots_.size(); ++i) tensors.push_back(Named(i, slots_[i].exp_avg));
  return tensors;
}

std::vector<NamedTensor> AdamW::SecondMoments() const {
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < slots_.size(); ++i) tensors.push_back(Named(i, slots_[i].exp_avg_sq));
  return tensors;
}

}  // namespace sepia::trainer
