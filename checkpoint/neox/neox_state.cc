#include "checkpoint/neox/neox_state.h"

#include <algorithm>

#include "base/error.h"
#include "checkpoint/neox/neox_dict.h"

namespace sepia::checkpoint {
namespace {

int64_t IntegerKey(const JsonObject& keys, std::string_view key, int64_t otherwise) {
  const JsonValue* value = FindKey(keys, key);
  const int64_t* integer = value == nullptr ? nullptr : value->As<int64_t>();
  return integer == nullptr ? otherwise : *integer;
}

// DynamicLossScaler.update_scale counts iterations; the scale doubles when cur_iter -
// last_overflow_iter is a multiple of the window, which counts the good steps since then.
LossScalerState ReadScaler(const NeoxDict& optimizer, const std::string& path) {
  LossScalerState scaler;
  const PickleValue* value = optimizer.Find("loss_scaler");
  if (value == nullptr) return scaler;  // bf16
  const auto* object = PointerTo<PickleObject>(*value);
  const auto* attributes = object == nullptr ? nullptr : PointerTo<PickleDict>(object->state);
  if (attributes == nullptr) optimizer.Fail("loss_scaler", "is no object with attributes");
  const NeoxDict state(*attributes, path, "loss_scaler.");
  scaler.dynamic = object->type.name == "DynamicLossScaler";
  scaler.scale = state.Number("cur_scale", 0);
  if (!(scaler.scale > 0)) state.Fail("cur_scale", "is not positive");
  if (!scaler.dynamic) return scaler;
  const auto iterations = static_cast<int64_t>(state.Number("cur_iter", 0));
  const auto last_overflow = static_cast<int64_t>(state.Number("last_overflow_iter", -1));
  scaler.good_steps = std::max<int64_t>(0, iterations - last_overflow - 1);
  scaler.last_overflow_step = last_overflow < 0 ? -1 : last_overflow + 1;  // ours count from 1
  scaler.hysteresis_left = static_cast<int32_t>(state.Number("cur_hysteresis", 1));
  return scaler;
}

ScheduleState ReadSchedule(const NeoxDict& states, const JsonObject& keys) {
  ScheduleState schedule;
  if (states.Find("lr_scheduler") == nullptr) return schedule;
  const NeoxDict stored = states.GetDict("lr_scheduler");
  if (const PickleValue* style = stored.Find("decay_style")) {
    if (const auto* name = std::get_if<std::string_view>(style)) schedule.kind = *name;
  }
  std::transform(schedule.kind.begin(), schedule.kind.end(), schedule.kind.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  schedule.lr = stored.Number("start_lr", 0);
  schedule.min_lr = stored.Number("min_lr", 0);
  schedule.warmup_steps = stored.Number("warmup_iter", 0);
  schedule.decay_steps = static_cast<int64_t>(stored.Number("end_iter", 0));
  schedule.total_steps = IntegerKey(keys, "train_iters", schedule.decay_steps);
  return schedule;
}

}  // namespace

TrainState ReadNeoxState(const NeoxRankFiles& files, const JsonObject& keys) {
  if (files.states == nullptr) {
    throw BadData(files.optimizers.front()->path(), -1,
                  "the mp_rank_00_model_states.pt file beside it is missing",
                  "it says at which step the run stands");
  }
  const NeoxDict states(files.states->RootDict(), files.states->path());
  const TorchFile& optimizer = *files.optimizers.front();
  TrainState state;
  state.step = states.Count("global_steps");
  state.skipped_steps = states.Count("skipped_steps");
  if (state.skipped_steps > state.step) {
    states.Fail("skipped_steps", "is larger than global_steps");
  }
  state.applied_steps = state.step - state.skipped_steps;
  state.consumed_samples = states.Count("global_samples");
  state.loss_scaler =
      ReadScaler(NeoxDict(optimizer.RootDict(), optimizer.path()).GetDict("optimizer_state_dict"),
                 optimizer.path());
  state.schedule = ReadSchedule(states, keys);
  state.seed = static_cast<uint64_t>(IntegerKey(keys, "seed", 1234));
  state.data.order = "NEOX_MAPS";
  state.data.seed = static_cast<int64_t>(state.seed);
  state.data.next_sample = state.consumed_samples;
  state.data.sequence_length = IntegerKey(keys, "seq_length", 0);
  state.data.global_batch = state.step == 0 ? 0 : state.consumed_samples / state.step;
  int64_t tokens = 0;
  if (__builtin_mul_overflow(state.consumed_samples, state.data.sequence_length, &tokens)) {
    states.Fail("global_samples", "is out of range");
  }
  state.consumed_tokens = tokens;
  return state;
}

}  // namespace sepia::checkpoint
