// Encodings of short words seen lately: natural text repeats a few thousand of them.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace sepia::data {

// Direct-mapped; a colliding word replaces the one before. Not thread-safe.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 24;
  static constexpr size_t kMaxIds = 5;

  // Where `word` (1 to kMaxWordBytes bytes) is, or would be.
  class Entry {
   public:
    bool Holds(const Entry& other) const { return length == other.length && key == other.key; }
    std::span<const int32_t> ids() const { return {id_list.data(), num_ids}; }

   private:
    friend class WordCache;
    std::array<uint64_t, 3> key{};
    std::array<int32_t, kMaxIds> id_list{};
    uint8_t length = 0;
    uint8_t num_ids = 0;
  };

  WordCache() : entries_(kNumEntries) {}

  // The ids of `word`, or empty if it is not there.
  std::span<const int32_t> Find(std::string_view word) {
    wanted_ = Entry();
    std::memcpy(wanted_.key.data(), word.data(), word.size());
    wanted_.length = static_cast<uint8_t>(word.size());
    uint64_t hash = (wanted_.key[0] ^ wanted_.length) * 0x9E3779B97F4A7C15u;
    hash = (hash ^ (hash >> 29) ^ wanted_.key[1]) * 0xBF58476D1CE4E5B9u;
    hash = (hash ^ (hash >> 32) ^ wanted_.key[2]) * 0x94D049BB133111EBu;
    slot_ = &entries_[hash >> (64 - kLogEntries)];
    return slot_->Holds(wanted_) ? slot_->ids() : std::span<const int32_t>();
  }

  // Keeps `ids` for the word that Find was just asked for, if they are few enough.
  void Insert(std::span<const int32_t> ids) {
    if (ids.empty() || ids.size() > kMaxIds) return;
    *slot_ = wanted_;
    std::copy(ids.begin(), ids.end(), slot_->id_list.begin());
    slot_->num_ids = static_cast<uint8_t>(ids.size());
  }

 private:
  static constexpr int kLogEntries = 14;
  static constexpr size_t kNumEntries = size_t{1} << kLogEntries;

  std::vector<Entry> entries_;
  Entry wanted_;
  Entry* slot_ = nullptr;
};

}  // namespace sepia::data
