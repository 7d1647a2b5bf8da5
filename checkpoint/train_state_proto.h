// TrainState to and from its message.
#pragma once

#include "checkpoint/train_state.h"

namespace sepia::checkpoint {

namespace stored {
class TrainState;
}

void ToProto(const TrainState& state, stored::TrainState* proto);
TrainState FromProto(const stored::TrainState& proto);

}  // namespace sepia::checkpoint
