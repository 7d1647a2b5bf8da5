#include "checkpoint/train_state_proto.h"

#include "checkpoint/manifest.pb.h"

namespace sepia::checkpoint {

void ToProto(const TrainState& state, stored::TrainState* proto) {
  proto->set_step(state.step);
  proto->set_applied_steps(state.applied_steps);
  proto->set_skipped_steps(state.skipped_steps);
  proto->set_skipped_in_a_row(state.skipped_in_a_row);
  proto->set_consumed_samples(state.consumed_samples);
  proto->set_consumed_tokens(state.consumed_tokens);
  proto->set_last_loss(state.last_loss);
  proto->set_seed(state.seed);
  proto->set_extra(state.extra);

  stored::LossScaler* scaler = proto->mutable_loss_scaler();
  scaler->set_dynamic(state.loss_scaler.dynamic);
  scaler->set_scale(state.loss_scaler.scale);
  scaler->set_good_steps(static_cast<uint64_t>(state.loss_scaler.good_steps));
  scaler->set_last_overflow_step(state.loss_scaler.last_overflow_step);
  scaler->set_hysteresis_left(state.loss_scaler.hysteresis_left);

  stored::DataCursor* data = proto->mutable_data();
  data->set_fingerprint(state.data.fingerprint);
  data->set_order(state.data.order);
  data->set_seed(state.data.seed);
  data->set_next_sample(state.data.next_sample);
  data->set_sequence_length(state.data.sequence_length);
  data->set_global_batch(state.data.global_batch);

  stored::Schedule* schedule = proto->mutable_schedule();
  schedule->set_kind(state.schedule.kind);
  schedule->set_lr(state.schedule.lr);
  schedule->set_min_lr(state.schedule.min_lr);
  schedule->set_warmup_steps(state.schedule.warmup_steps);
  schedule->set_decay_steps(state.schedule.decay_steps);
  schedule->set_total_steps(state.schedule.total_steps);
}

TrainState FromProto(const stored::TrainState& proto) {
  const stored::LossScaler& scaler = proto.loss_scaler();
  const stored::DataCursor& data = proto.data();
  const stored::Schedule& schedule = proto.schedule();
  return {
      .step = proto.step(),
      .applied_steps = proto.applied_steps(),
      .skipped_steps = proto.skipped_steps(),
      .skipped_in_a_row = proto.skipped_in_a_row(),
      .consumed_samples = proto.consumed_samples(),
      .consumed_tokens = proto.consumed_tokens(),
      .last_loss = proto.last_loss(),
      .seed = proto.seed(),
      .loss_scaler = {.dynamic = scaler.dynamic(),
                      .scale = scaler.scale(),
                      .good_steps = static_cast<int64_t>(scaler.good_steps()),
                      .last_overflow_step = scaler.last_overflow_step(),
                      .hysteresis_left = scaler.hysteresis_left()},
      .data = {.fingerprint = data.fingerprint(),
               .order = data.order(),
               .seed = data.seed(),
               .next_sample = data.next_sample(),
               .sequence_length = data.sequence_length(),
               .global_batch = data.global_batch()},
      .schedule = {.kind = schedule.kind(),
                   .lr = schedule.lr(),
                   .min_lr = schedule.min_lr(),
                   .warmup_steps = schedule.warmup_steps(),
                   .decay_steps = schedule.decay_steps(),
                   .total_steps = schedule.total_steps()},
      .extra = proto.extra(),
  };
}

}  // namespace sepia::checkpoint
