// Where a run stands between two optimizer steps: everything, besides the tensors, that the next
// step depends on.
#pragma once

#include <cstdint>
#include <string>

namespace sepia::checkpoint {

// The rules are trainer/loss_scaler.h's; a fixed scale has dynamic = false.
struct LossScalerState {
  bool dynamic = false;
  double scale = 1;
  int64_t good_steps = 0;           // since the last overflow or change of scale
  int64_t last_overflow_step = -1;  // -1: never
  int32_t hysteresis_left = 0;
  friend bool operator==(const LossScalerState&, const LossScalerState&) = default;
};

// Which sample comes next, and in the order of which data.
struct DataCursor {
  std::string fingerprint;  // digest of the data set and its order; resuming needs the same
  std::string order;        // "NEOX_MAPS", "LINEAR"
  int64_t seed = 0;
  int64_t next_sample = 0;  // in the global order
  int64_t sequence_length = 0;
  int64_t global_batch = 0;
  friend bool operator==(const DataCursor&, const DataCursor&) = default;
};

// The schedule in force, so that a changed one is noticed.
struct ScheduleState {
  std::string kind;
  double lr = 0;
  double min_lr = 0;
  double warmup_steps = 0;
  int64_t decay_steps = 0;
  int64_t total_steps = 0;
  friend bool operator==(const ScheduleState&, const ScheduleState&) = default;
};

struct TrainState {
  int64_t step = 0;           // steps done, skipped ones included
  int64_t applied_steps = 0;  // updates done: Adam's t
  int64_t skipped_steps = 0;  // updates left out for non-finite gradients
  int64_t skipped_in_a_row = 0;
  int64_t consumed_samples = 0;
  int64_t consumed_tokens = 0;
  double last_loss = 0;
  uint64_t seed = 0;  // Philox streams are functions of (seed, name, index): no other state
  LossScalerState loss_scaler;
  DataCursor data;
  ScheduleState schedule;
  // Opaque to this folder: small state of parts that come later, by their own serialisation.
  std::string extra;
  friend bool operator==(const TrainState&, const TrainState&) = default;
};

}  // namespace sepia::checkpoint
