// What a rank has been doing lately: its phase and its last collectives. The watchdog
// (dist/watchdog.h) reads it when nothing moves any more.
//
// One per rank, shared by all its groups. Thread-safe; a call costs some tens of nanoseconds.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <vector>

namespace sepia::dist {

// Text of bounded length that allocates nothing: a hang must not be able to stop its record.
template <size_t kSize>
class ShortText {
 public:
  ShortText() = default;
  ShortText(std::string_view text) {  // NOLINT: converts
    text.copy(text_.data(), kSize);   // the rest stays zero
  }
  std::string_view view() const {
    const std::string_view all(text_.data(), kSize);
    return all.substr(0, all.find('\0'));
  }

 private:
  std::array<char, kSize> text_ = {};
};

// One collective of this rank.
struct Collective {
  enum class State : uint8_t { kAsked, kRunning, kDone };

  int64_t call = 0;          // this rank's first is 1
  int64_t group_call = 0;    // the same among the calls of its group
  ShortText<24> group = {};  // "world", "data[0]": the same text on all ranks of a group
  ShortText<24> operation = {};
  ShortText<48> label = {};
  int64_t bytes = 0;  // of the tensor, on this rank
  State state = State::kAsked;
  double asked = 0, started = 0, done = 0;  // MonotonicSeconds(); 0: not yet
};

class FlightRecorder {
 public:
  static constexpr size_t kCapacity = 256;

  struct Record {
    int64_t step = 0;
    ShortText<32> phase = {};
    double phase_began = 0;                    // MonotonicSeconds()
    std::vector<Collective> collectives = {};  // oldest first
  };

  // The rank begins something else: "forward" of step 7. Counts as progress.
  void SetPhase(int64_t step, std::string_view phase);

  // Progress without a change of phase: another batch of a validation.
  void Tick() { progress_.fetch_add(1, std::memory_order_relaxed); }

  // A collective is asked for, the communication thread begins it, it is done. Asked() returns the
  // number that the other two take.
  int64_t Asked(std::string_view group, int64_t group_call, std::string_view operation,
                std::string_view label, int64_t bytes);
  void Started(int64_t call);
  void Done(int64_t call);

  // From now on other ranks may end: one whose process is gone is no lost peer.
  void ExpectTheEnd() { ending_ = true; }
  bool ending() const { return ending_; }

  // Changes whenever anything does.
  uint64_t progress() const { return progress_.load(std::memory_order_relaxed); }
  Record Read() const;

 private:
  Collective& Entry(int64_t call) { return ring_[static_cast<size_t>(call) % kCapacity]; }

  mutable std::mutex mutex_;
  std::array<Collective, kCapacity> ring_;
  int64_t calls_ = 0;
  int64_t step_ = 0;
  ShortText<32> phase_ = std::string_view("start");
  double phase_began_ = 0;
  std::atomic<uint64_t> progress_ = 0;
  std::atomic<bool> ending_ = false;
};

}  // namespace sepia::dist
