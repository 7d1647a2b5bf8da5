#include "trainer/step_prediction.h"

#include <algorithm>
#include <vector>

#include "trainer/flops.h"
#include "trainer/step_work.h"

namespace sepia::trainer {
namespace {

// Of four chunks the last, or the first, has nothing beside it.
constexpr double kChunkShare = 0.75;

// How the ranks of one axis lie on nodes.
struct Axis {
  double ranks;
  double in_node;  // of these, on one node

  // Of what a rank sends to each of the others alike.
  double share_across() const { return ranks > 1 ? (ranks - in_node) / (ranks - 1) : 0; }
};

// Time of the collectives of one axis and phase, and how much of it could be hidden.
struct CommTime {
  double seconds = 0;
  double hideable = 0;
};

class Predictor {
 public:
  Predictor(const TrainSettings& settings, const Cluster& cluster, const Hardware& hardware,
            double density)
      : s_(settings),
        cluster_(cluster),
        hardware_(hardware),
        density_(density),
        data_ranks_(cluster.ranks() / settings.parallel.tensor),
        collectives_(CollectivesOfStep(settings, data_ranks_)) {}

  StepPrediction Predict() {
    PredictCompute();
    PredictBytes();
    PredictCommunication();
    const auto tokens = static_cast<double>(s_.tokens_per_step());
    AttentionWork attention = ExpectedAttentionWork(s_.model, s_.data.sequence_length, density_);
    attention.visited_pairs *= static_cast<double>(s_.batch.global);
    const double useful = TrainingFlops(s_.model, s_.tokens_per_step(), attention);
    p_.tokens_per_s = tokens / p_.step();
    p_.mfu = useful / (hardware_.peak_flops * static_cast<double>(cluster_.ranks()) * p_.step());
    return p_;
  }

 private:
  void PredictCompute() {
    const StepWork work = WorkOfRank(s_, data_ranks_, density_);
    const auto micro_batches = static_cast<double>(AccumulationOf(s_, data_ranks_));
    p_.linear = micro_batches * work.linear.flops / hardware_.linear_flops;
    p_.attention = micro_batches * work.attention.flops / hardware_.attention_flops;
    p_.head = micro_batches * work.head.flops / hardware_.head_flops;
    p_.elementwise = micro_batches * work.elementwise.bytes / hardware_.elementwise_bytes;
    p_.optimizer = work.optimizer.bytes / hardware_.optimizer_bytes;
  }

  Axis AxisOf(MeshAxis axis) const {
    if (axis == MeshAxis::kTensor) {
      const double ranks = s_.parallel.tensor;
      return {ranks, ranks};
    }
    const auto ranks = static_cast<double>(data_ranks_);
    return {ranks, ranks / static_cast<double>(cluster_.nodes)};
  }

  void PredictBytes() {
    p_.bytes.tensor_in_node =
        static_cast<double>(BytesSentInStep(collectives_, MeshAxis::kTensor, s_.parallel.tensor));
    const auto data =
        static_cast<double>(BytesSentInStep(collectives_, MeshAxis::kData, data_ranks_));
    const double across = AxisOf(MeshAxis::kData).share_across();
    p_.bytes.data_across_nodes = data * across;
    p_.bytes.data_in_node = data - p_.bytes.data_across_nodes;
  }

  CommTime TimeOf(MeshAxis axis, StepPhase phase) const {
    const Axis place = AxisOf(axis);
    CommTime time;
    if (place.ranks < 2) return time;
    const auto ranks = static_cast<int64_t>(place.ranks);
    for (const StepCollective& c : collectives_) {
      if (c.axis != axis || c.phase != phase) continue;
      const auto bytes = static_cast<double>(c.BytesSent(ranks));
      const double rounds = static_cast<double>(c.calls) * RoundsOf(c.kind, c.bytes);
      const double across_bytes = bytes * place.share_across();
      const double in_node = (bytes - across_bytes) / hardware_.in_node.bytes_per_s +
                             rounds * hardware_.in_node.latency_s;
      double across = 0;
      if (across_bytes > 0) {
        // All ranks of a node send at the same time over its network.
        across = across_bytes * static_cast<double>(cluster_.ranks_per_node) /
                     hardware_.across_nodes.bytes_per_s +
                 rounds * hardware_.across_nodes.latency_s;
      }
      time.seconds += std::max(in_node, across);
      time.hideable += across > in_node ? across * hardware_.overlap_across_nodes
                                        : in_node * hardware_.overlap_in_node;
    }
    return time;
  }

  // Collectives of the data axis pass beside the backward pass of the last micro-batch (ZeRO-2: of
  // every one) and the forward pass of the first. Those of a tensor group are waited for where they
  // stand; sequence parallelism cuts them into chunks, of which all but one pass beside products.
  void PredictCommunication() {
    const auto micro_batches = static_cast<double>(AccumulationOf(s_, data_ranks_));
    const double products = p_.linear + p_.attention + p_.head + p_.elementwise;
    const double forward = kForwardShare * products / micro_batches;
    const double backward = (1 - kForwardShare) * products / micro_batches;
    const double backward_passes = s_.parallel.zero_stage == 2 ? micro_batches : 1;
    const bool chunks = s_.parallel.sequence;
    for (const StepPhase phase : {StepPhase::kForward, StepPhase::kBackward, StepPhase::kUpdate}) {
      const CommTime tensor = TimeOf(MeshAxis::kTensor, phase);
      const CommTime data = TimeOf(MeshAxis::kData, phase);
      const double window = phase == StepPhase::kUpdate    ? 0
                            : phase == StepPhase::kForward ? forward
                                                           : backward * backward_passes;
      double hidden = std::min(window, data.hideable);
      if (chunks && phase != StepPhase::kUpdate) hidden += kChunkShare * tensor.hideable;
      p_.tensor_communication += tensor.seconds;
      p_.data_communication += data.seconds;
      p_.exposed_communication += tensor.seconds + data.seconds - hidden;
    }
  }

  const TrainSettings& s_;
  const Cluster& cluster_;
  const Hardware& hardware_;
  const double density_;
  const int64_t data_ranks_;
  const std::vector<StepCollective> collectives_;
  StepPrediction p_;
};

}  // namespace

StepPrediction PredictStep(const TrainSettings& settings, const Cluster& cluster,
                           const Hardware& hardware, double density) {
  return Predictor(settings, cluster, hardware, density).Predict();
}

}  // namespace sepia::trainer
