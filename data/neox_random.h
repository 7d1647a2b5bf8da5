// The random order of GPT-NeoX: numpy's legacy RandomState, frozen since numpy 1.16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <utility>

namespace sepia::data {

class NeoxRandom {
 public:
  explicit NeoxRandom(uint32_t seed) : engine_(seed) {}

  uint32_t Next32() { return engine_(); }

  // Uniform in [0, max]: masked draws, repeated until one fits. numpy's random_interval.
  uint64_t Interval(uint64_t max) {
    uint64_t mask = max;
    for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
    uint64_t value;
    do {
      value = max <= 0xffffffffu ? Next32() & mask : Next64() & mask;
    } while (value > max);
    return value;
  }

  // RandomState.shuffle: from the back, each element swaps with one at or before it.
  template <typename T>
  void Shuffle(std::span<T> values) {
    for (size_t i = values.size(); i-- > 1;) std::swap(values[i], values[Interval(i)]);
  }

 private:
  uint64_t Next64() {
    const uint64_t high = Next32();
    return high << 32 | Next32();
  }

  std::mt19937 engine_;
};

}  // namespace sepia::data
