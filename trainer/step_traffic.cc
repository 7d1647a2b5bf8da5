#include "trainer/step_traffic.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/integer.h"
#include "dist/message_sizes.h"
#include "model/parameters.h"
#include "model/sharding.h"

namespace sepia::trainer {
namespace {

// Numbers that all ranks must agree on: counts, losses, norms.
constexpr int64_t kScalarBytes = 8;
// Largest logit, sum of exponentials, logit of the target: f64 (kernels/lm_head.h).
constexpr int64_t kRowStatisticsBytes = 24;

class Collector {
 public:
  Collector(const TrainSettings& settings, int64_t data_ranks, int64_t data_rank)
      : s_(settings),
        m_(settings.model),
        tensor_(settings.parallel.tensor),
        data_(data_ranks),
        data_rank_(data_rank),
        accumulation_(AccumulationOf(settings, data_ranks)),
        rows_(settings.batch.micro * settings.data.sequence_length),
        sequence_(settings.parallel.sequence && tensor_ > 1),
        table_(settings.model),
        layout_(table_, tensor_, data_ranks) {}

  std::vector<StepCollective> Collect() {
    const int64_t halves = m_.parallel_residual ? 1 : 2;
    const int64_t blocks = m_.num_layers * halves;
    // The last block's activations are still there.
    const int64_t again = s_.recompute ? blocks - halves : 0;
    Sum("embedding forward", StepPhase::kForward, 1);
    Gather("block forward", StepPhase::kForward, blocks);
    Sum("block forward", StepPhase::kForward, blocks);
    Gather("final LayerNorm", StepPhase::kForward, 1);
    // Once for each chunk of rows; the bytes are those of all rows.
    Add({"loss statistics", MeshAxis::kTensor, CollectiveKind::kAllGather, StepPhase::kBackward,
         kRowStatisticsBytes * rows_ * tensor_, accumulation_});
    Sum("head backward", StepPhase::kBackward, 1);
    Gather("block forward again", StepPhase::kBackward, again);
    Sum("block forward again", StepPhase::kBackward, again);
    Gather("block backward", StepPhase::kBackward, 2 * blocks);  // its input and its gradient
    Sum("block backward", StepPhase::kBackward, blocks);
    Gather("embedding backward", StepPhase::kBackward, 1);
    Add({"partial gradients", MeshAxis::kTensor, CollectiveKind::kAllReduce, StepPhase::kUpdate,
         PartialGradientBytes(), 1});
    Scalar("gradient norm", MeshAxis::kTensor);
    CollectData();
    return std::move(collectives_);
  }

 private:
  void Add(StepCollective collective) {
    if (collective.calls > 0) collectives_.push_back(std::move(collective));
  }

  void Scalar(const char* what, MeshAxis axis) {
    Add({what, axis, CollectiveKind::kAllReduce, StepPhase::kUpdate, kScalarBytes, 1});
  }

  int64_t StreamBytes(int64_t rows) const {
    return rows * m_.hidden_size * DTypeSize(s_.compute_dtype());
  }

  // Rows of the residual stream in every micro-batch (model/residual_rows.h).
  void Gather(const char* what, StepPhase phase, int64_t calls) {
    if (!sequence_) return;
    Add({fmt::format("{}, gather", what), MeshAxis::kTensor, CollectiveKind::kAllGather, phase,
         StreamBytes(RoundUp(rows_, tensor_)), accumulation_ * calls});
  }

  void Sum(const char* what, StepPhase phase, int64_t calls) {
    const auto kind = sequence_ ? CollectiveKind::kReduceScatter : CollectiveKind::kAllReduce;
    const int64_t rows = sequence_ ? RoundUp(rows_, tensor_) : rows_;
    Add({what, MeshAxis::kTensor, kind, phase, StreamBytes(rows), accumulation_ * calls});
  }

  void CollectData() {
    const int zero = s_.parallel.zero_stage;
    Scalar("targets", MeshAxis::kData);
    Scalar("loss", MeshAxis::kData);
    for (const model::FlatLayout::Bucket& bucket : layout_.buckets) {
      const int64_t size = bucket.end - bucket.begin;
      Add({"gradients", MeshAxis::kData,
           zero == 0 ? CollectiveKind::kAllReduce : CollectiveKind::kReduceScatter,
           StepPhase::kBackward, size * DTypeSize(DType::kFloat32), zero == 2 ? accumulation_ : 1});
      if (zero == 0) continue;
      Add({"weights", MeshAxis::kData, CollectiveKind::kAllGather, StepPhase::kForward,
           size * DTypeSize(s_.compute_dtype()), 1});
    }
    if (zero > 0) Scalar("gradient norm", MeshAxis::kData);
  }

  int64_t PartialGradientBytes() const {
    const bool sliced = s_.parallel.zero_stage > 0;
    int64_t elements = 0;
    for (const model::Piece& piece :
         model::PiecesOfSlice(layout_, sliced ? data_rank_ : 0, sliced ? data_ : 1)) {
      const bool is_partial = table_.specs()[static_cast<size_t>(piece.param)].partial_gradient;
      if (is_partial) elements += piece.end - piece.begin;
    }
    return elements * DTypeSize(DType::kFloat32);
  }

  const TrainSettings& s_;
  const model::ModelConfig& m_;
  const int64_t tensor_, data_, data_rank_;
  const int64_t accumulation_;
  const int64_t rows_;  // of a micro-batch
  const bool sequence_;
  const model::ParameterTable table_;
  const model::FlatLayout layout_;
  std::vector<StepCollective> collectives_;
};

}  // namespace

int64_t BytesSent(CollectiveKind kind, int64_t bytes, int64_t ranks) {
  if (kind != CollectiveKind::kAllReduce) return bytes / ranks * (ranks - 1);
  if (bytes <= dist::kSmallAllReduceBytes) return bytes * (ranks - 1);
  return 2 * bytes * (ranks - 1) / ranks;
}

int RoundsOf(CollectiveKind kind, int64_t bytes) {
  return kind == CollectiveKind::kAllReduce && bytes > dist::kSmallAllReduceBytes ? 2 : 1;
}

std::vector<StepCollective> CollectivesOfStep(const TrainSettings& settings, int64_t data_ranks,
                                              int64_t data_rank) {
  return Collector(settings, data_ranks, data_rank).Collect();
}

int64_t BytesSentInStep(const std::vector<StepCollective>& collectives, MeshAxis axis,
                        int64_t ranks) {
  int64_t bytes = 0;
  for (const StepCollective& c : collectives) {
    if (c.axis == axis) bytes += c.BytesSent(ranks);
  }
  return bytes;
}

int64_t AccumulationOf(const TrainSettings& settings, int64_t data_ranks) {
  return settings.batch.global / (settings.batch.micro * data_ranks);
}

int64_t CommunicationBytes(const TrainSettings& settings, int64_t data_ranks) {
  int64_t tensor_slice = 0, data_slice = 0;
  for (const StepCollective& c : CollectivesOfStep(settings, data_ranks)) {
    if (c.kind == CollectiveKind::kAllGather) continue;
    int64_t& largest = c.axis == MeshAxis::kTensor ? tensor_slice : data_slice;
    const int64_t ranks = c.axis == MeshAxis::kTensor ? settings.parallel.tensor : data_ranks;
    largest = std::max(largest, CeilDiv(c.bytes, ranks));
  }
  return dist::StagingBytes(tensor_slice, settings.parallel.tensor) +
         dist::StagingBytes(data_slice, data_ranks);
}

}  // namespace sepia::trainer
