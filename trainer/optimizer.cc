#include "trainer/optimizer.h"

#include <algorithm>

#include "base/check.h"
#include "base/device_memory.h"
#include "kernels/elementwise.h"
#include "kernels/optimizer.h"
#include "model/gather.h"

namespace sepia::trainer {
namespace {

// Gathers under way behind a block's forward pass. More would take the links from what tensor ranks
// have to tell each other in that block.
constexpr size_t kGathersAhead = 2;

kernels::OptimizerState AllocateStates(Arena& arena, int64_t num_elements, DType compute_dtype) {
  kernels::OptimizerState states;
  const Shape shape{num_elements};
  if (const auto master = kernels::MasterDType(compute_dtype)) {
    states.master = arena.Allocate("master", *master, shape);
  }
  states.exp_avg = arena.Allocate("exp_avg", DType::kFloat32, shape);
  states.exp_avg_sq = arena.Allocate("exp_avg_sq", DType::kFloat32, shape);
  return states;
}

}  // namespace

int64_t AdamW::PlanBytes(const model::FlatLayout& layout, DType compute_dtype, int64_t num_slices) {
  Arena counting("optimizer");
  AllocateStates(counting, layout.size / num_slices, compute_dtype);
  return counting.used_bytes();
}

AdamW::AdamW(const OptimizerSettings& settings, model::GptNeox& model, dist::Mesh& mesh,
             int zero_stage, bool overlap)
    : settings_(settings),
      model_(model),
      mesh_(mesh),
      alone_(dist::MakeSelfCommunicator("alone")),
      slices_(zero_stage == 0 ? *alone_ : mesh.data()),
      replicas_(zero_stage == 0 ? mesh.data() : *alone_),
      overlap_(overlap),
      reducer_(model, slices_, replicas_, overlap),
      pieces_(model::PiecesOfSlice(model.layout(), slices_.rank(), slices_.size())),
      arena_("optimizer", PlanBytes(model.layout(), model.options().compute_dtype, slices_.size()),
             model.options().device),
      squared_norm_(DType::kFloat64, {1}, model.options().device),
      loss_scale_(DType::kFloat32, {1}, model.options().device),
      norm_(DType::kFloat64, {1}, model.options().device),
      grad_multiplier_(DType::kFloat32, {1}, model.options().device),
      skip_(DType::kInt32, {1}, model.options().device) {
  CHECK(model.options().shard_gradients == (zero_stage == 2), "ZeRO-2 is for sharded gradients");
  states_ =
      AllocateStates(arena_, model.layout().size / slices_.size(), model.options().compute_dtype);
  FillBytes(states_.exp_avg, 0);
  FillBytes(states_.exp_avg_sq, 0);
}

kernels::OptimizerState AdamW::State(const model::Piece& piece) const {
  const int64_t count = piece.end - piece.begin;
  // A rank that holds everything keeps the order of the flat vector.
  const int64_t place = slices_.size() == 1 ? piece.place : piece.in_slice;
  return {.weight = model_.weights().Rows(piece.place, count),
          .master = states_.master.empty() ? TensorView() : states_.master.Rows(place, count),
          .exp_avg = states_.exp_avg.Rows(place, count),
          .exp_avg_sq = states_.exp_avg_sq.Rows(place, count)};
}

void AdamW::InitializeWeights(kernels::Context& ctx, uint64_t seed) {
  const auto specs = model_.parameters().specs();
  size_t next = 0;
  const std::vector<StateTensor> masters = Masters();
  for (const model::ParamSpec& spec : specs) {
    for (; next < masters.size() && masters[next].name == spec.hf_name; ++next) {
      const StateTensor& master = masters[next];
      master.Fill([&](const TensorView& values) {
        model::InitializeParameter(spec, master.offset, seed, ctx.num_threads, values);
      });
    }
  }
  CHECK_EQ(next, masters.size());
  WeightsLoaded(ctx);
}

void AdamW::WeightsLoaded(kernels::Context& ctx) {
  WeightsUpdated(ctx);
  WaitForWeights(ctx);
}

// The other ranks' slices are old from here on, until they are gathered.
void AdamW::WeightsUpdated(kernels::Context& ctx) {
  gathers_.clear();
  for (size_t i = 0; i < model_.parameters().specs().size(); ++i) {
    model_.WeightChanged(static_cast<int>(i));
  }
  if (!overlap_) WaitForWeights(ctx);
}

// Everybody's slices of the weights, to everybody, in the order of the forward pass.
void AdamW::StartGathers(kernels::Context& ctx, size_t end) {
  const auto& buckets = model_.layout().buckets;
  while (gathers_.size() < std::min(end, buckets.size())) {
    const model::FlatLayout::Bucket& bucket = buckets[gathers_.size()];
    const TensorView all = model_.weights().Rows(bucket.begin, bucket.end - bucket.begin);
    const int64_t length = all.dim(0) / slices_.size();
    gathers_.push_back(
        slices_.AllGather(ctx, all.Rows(slices_.rank() * length, length), all, "weights"));
  }
}

std::function<void(int begin, int end)> AdamW::weights_needed(kernels::Context& ctx) {
  return [this, &ctx](int begin, int end) {
    const auto& buckets = model_.layout().buckets;
    for (size_t b = 0; b < buckets.size(); ++b) {
      if (buckets[b].first_param >= end || buckets[b].end_param <= begin) continue;
      StartGathers(ctx, b + 1 + kGathersAhead);
      gathers_[b].Wait();
    }
  };
}

void AdamW::WaitForWeights(kernels::Context& ctx) {
  StartGathers(ctx, model_.layout().buckets.size());
  for (dist::Pending& pending : gathers_) pending.Wait();
}

void AdamW::ReduceGradients(kernels::Context& ctx) {
  reducer_.Finish(ctx);
  // What is left to add up over tensor ranks is a part of the slice, and little.
  std::vector<TensorView> partial;
  for (const model::Piece& piece : pieces_) {
    const auto param = static_cast<size_t>(piece.param);
    if (!model_.parameters().specs()[param].partial_gradient) continue;
    partial.push_back(reducer_.Reduced(piece));
  }
  partial_sums_.Add(ctx, mesh_, partial);
}

void AdamW::MeasureGradients(kernels::Context& ctx, double loss_scale) {
  WaitForWeights(ctx);
  ReduceGradients(ctx);
  kernels::Zero(ctx, squared_norm_);
  const auto specs = model_.parameters().specs();
  for (const model::Piece& piece : pieces_) {
    // Every tensor rank holds all of a replicated parameter: the first one speaks for it.
    const bool replicated =
        specs[static_cast<size_t>(piece.param)].placement == model::Placement::kReplicated;
    if (replicated && mesh_.tensor().rank() != 0) continue;
    kernels::SquaredNorm(
        ctx, {.x = reducer_.Reduced(piece), .sum = squared_norm_, .mode = GradMode::kAccumulate});
  }
  if (slices_.size() > 1 || mesh_.tensor().size() > 1) {
    auto sum = ReadScalar<double>(squared_norm_);
    const TensorView view(&sum, DType::kFloat64, {1});
    slices_.AllReduce(ctx, view, dist::ReduceOp::kSum, "gradient norm").Wait();
    mesh_.tensor().AllReduce(ctx, view, dist::ReduceOp::kSum, "gradient norm").Wait();
    WriteScalar(squared_norm_, sum);
  }
  WriteScalar(loss_scale_, static_cast<float>(loss_scale));
  kernels::ClipFactor(ctx, {.squared_norm = squared_norm_,
                            .loss_scale = loss_scale_,
                            .clip = settings_.clip,
                            .norm = norm_,
                            .grad_multiplier = grad_multiplier_,
                            .skip = skip_});
}

double AdamW::grad_norm() const { return ReadScalar<double>(norm_); }

bool AdamW::non_finite() const { return ReadScalar<int32_t>(skip_) != 0; }

void AdamW::Update(kernels::Context& ctx, double lr) {
  CHECK(!non_finite());
  ++updates_;
  const auto specs = model_.parameters().specs();
  for (const model::Piece& piece : pieces_) {
    const bool decays = specs[static_cast<size_t>(piece.param)].weight_decay;
    kernels::AdamWUpdate(ctx, {.state = State(piece),
                               .grad = reducer_.Reduced(piece),
                               .grad_multiplier = grad_multiplier_,
                               .skip = skip_,
                               .lr = lr,
                               .beta1 = settings_.beta1,
                               .beta2 = settings_.beta2,
                               .eps = settings_.eps,
                               .weight_decay = decays ? settings_.weight_decay : 0,
                               .t = updates_});
  }
  WeightsUpdated(ctx);
}

std::vector<StateTensor> AdamW::Named(kernels::StateRole role, Share share) const {
  const bool saved = share == Share::kSaved;
  const dist::Communicator& tensor = mesh_.tensor();
  // Ranks that hold the same share the work of saving as ZeRO's ranks do.
  const std::vector<model::Piece> pieces =
      saved ? model::PiecesOfSlice(model_.layout(), mesh_.data().rank(), mesh_.data().size())
            : pieces_;
  std::vector<StateTensor> tensors;
  for (const model::Piece& piece : pieces) {
    const model::ParamSpec& spec = model_.parameters().specs()[static_cast<size_t>(piece.param)];
    if (saved && spec.placement == model::Placement::kReplicated && tensor.rank() != 0) continue;
    const kernels::OptimizerState state = State(piece);
    const model::ParamPart part = PartOfTensorRank(spec, tensor.rank(), tensor.size());
    int64_t begin = 0;
    for (const model::ParamPart& rectangle : Rectangles(part, piece.begin, piece.end)) {
      const int64_t count = rectangle.shape.num_elements();
      tensors.emplace_back(spec.hf_name, rectangle.shape, spec.shape, rectangle.offset, role,
                           kernels::Rows(state, begin, count));
      begin += count;
    }
  }
  return tensors;
}

std::vector<StateTensor> AdamW::Masters(Share share) const {
  return Named(kernels::StateRole::kMaster, share);
}

std::vector<StateTensor> AdamW::FirstMoments(Share share) const {
  return Named(kernels::StateRole::kExpAvg, share);
}

std::vector<StateTensor> AdamW::SecondMoments(Share share) const {
  return Named(kernels::StateRole::kExpAvgSq, share);
}

std::vector<ConstTensorView> AdamW::StateMemory() const {
  std::vector<ConstTensorView> memory;
  for (const model::Piece& piece : pieces_) {
    const kernels::OptimizerState state = State(piece);
    if (!state.master.empty()) memory.push_back(state.master);
    memory.push_back(state.exp_avg);
    memory.push_back(state.exp_avg_sq);
  }
  return memory;
}

}  // namespace sepia::trainer
