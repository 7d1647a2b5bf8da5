// What the ranks of a run send each other in one optimizer step: the tables of docs/parallelism.md
// as numbers, exact (the tests compare them with what the communicators count). Training only: no
// validation, samples or checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/settings.h"

namespace sepia::trainer {

enum class CollectiveKind : uint8_t { kAllReduce, kReduceScatter, kAllGather };

// What each of `ranks` ranks sends for a tensor of `bytes` (the whole: what an all-gather writes, a
// reduce-scatter reads). Exact where `ranks` divides the number of elements; otherwise an
// all-reduce's slices differ by an element, and this is their mean.
int64_t BytesSent(CollectiveKind kind, int64_t bytes, int64_t ranks);

// Rounds of messages, each of which waits for the one before.
int RoundsOf(CollectiveKind kind, int64_t bytes);

enum class MeshAxis : uint8_t { kTensor, kData };

// Where in a step a collective runs, and so what it could hide behind: ZeRO's weights belong to the
// forward pass, gradients to the backward pass.
enum class StepPhase : uint8_t { kForward, kBackward, kUpdate };

struct StepCollective {
  std::string what;  // "block forward"
  MeshAxis axis;
  CollectiveKind kind;
  StepPhase phase;
  int64_t bytes;  // of one call, the whole tensor
  int64_t calls;  // in one step; what travels in chunks counts once

  // By each rank in a group of `ranks`.
  int64_t BytesSent(int64_t ranks) const { return calls * trainer::BytesSent(kind, bytes, ranks); }
};

// Of every rank of `data_ranks` x settings.parallel.tensor; micro-batches all full. Under ZeRO the
// data ranks' slices hold different parts of the LayerNorms' gradients: `data_rank` chooses one.
std::vector<StepCollective> CollectivesOfStep(const TrainSettings& settings, int64_t data_ranks,
                                              int64_t data_rank = 0);

// By each rank on one axis.
int64_t BytesSentInStep(const std::vector<StepCollective>& collectives, MeshAxis axis,
                        int64_t ranks);

// Micro-batches of a data rank in a step.
int64_t AccumulationOf(const TrainSettings& settings, int64_t data_ranks);

// Memory in which a rank receives what it reduces, of all axes.
int64_t CommunicationBytes(const TrainSettings& settings, int64_t data_ranks);

}  // namespace sepia::trainer
