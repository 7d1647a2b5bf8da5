#include "dist/flight_recorder.h"

#include <algorithm>

#include "base/clock.h"

namespace sepia::dist {

void FlightRecorder::SetPhase(int64_t step, std::string_view phase) {
  const std::lock_guard lock(mutex_);
  step_ = step;
  phase_ = ShortText<32>(phase);
  phase_began_ = MonotonicSeconds();
  ++progress_;
}

int64_t FlightRecorder::Asked(std::string_view group, int64_t group_call,
                              std::string_view operation, std::string_view label, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  const int64_t call = ++calls_;
  Entry(call) = {.call = call,
                 .group_call = group_call,
                 .group = group,
                 .operation = operation,
                 .label = label,
                 .bytes = bytes,
                 .asked = MonotonicSeconds()};
  ++progress_;
  return call;
}

void FlightRecorder::Started(int64_t call) {
  const std::lock_guard lock(mutex_);
  Collective& entry = Entry(call);
  if (entry.call != call) return;  // more calls are waiting than the ring holds
  entry.state = Collective::State::kRunning;
  entry.started = MonotonicSeconds();
  ++progress_;
}

void FlightRecorder::Done(int64_t call) {
  const std::lock_guard lock(mutex_);
  Collective& entry = Entry(call);
  ++progress_;
  if (entry.call != call) return;
  entry.state = Collective::State::kDone;
  entry.done = MonotonicSeconds();
}

FlightRecorder::Record FlightRecorder::Read() const {
  const std::lock_guard lock(mutex_);
  Record record{.step = step_, .phase = phase_, .phase_began = phase_began_};
  const int64_t oldest = std::max<int64_t>(1, calls_ - static_cast<int64_t>(kCapacity) + 1);
  for (int64_t call = oldest; call <= calls_; ++call) {
    record.collectives.push_back(ring_[static_cast<size_t>(call) % kCapacity]);
  }
  return record;
}

}  // namespace sepia::dist
