// What DeepSpeed's files know about where a run stands.
#pragma once

#include "checkpoint/json.h"
#include "checkpoint/neox/neox_files.h"
#include "checkpoint/train_state.h"

namespace sepia::checkpoint {

// From rank 0's mp_rank and optimizer files and the run's YAML keys. Adam's t is not stored by old
// versions and stored wrong by new ones: it is steps minus skipped steps. The data are not
// identified: `data.fingerprint` stays empty. Throws BadData.
TrainState ReadNeoxState(const NeoxRankFiles& files, const JsonObject& keys);

}  // namespace sepia::checkpoint
