// Token texts by id and ids by text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sepia::data {

class Vocabulary {
 public:
  // Ids are below this: the largest published vocabularies have about 260,000 entries.
  static constexpr int32_t kMaxSize = 1 << 19;
  static constexpr int32_t kNone = -1;

  enum class AddResult { kAdded, kTextTaken, kIdTaken };

  // `text` must not be empty and 0 <= id < kMaxSize. Ids in between become holes (empty texts).
  AddResult Add(int32_t id, std::string_view text);

  // Largest id + 1; holes count.
  int32_t size() const { return static_cast<int32_t>(texts_.size()); }
  // The id of `text`, or kNone.
  int32_t Find(std::string_view text) const;
  // "" for holes and for ids that do not exist.
  const std::string& Text(int32_t id) const;
  bool Has(int32_t id) const { return !Text(id).empty(); }

 private:
  // The slot that holds `text`, or the free one where it belongs.
  size_t Slot(std::string_view text) const;
  void Grow();

  std::vector<std::string> texts_;
  std::vector<int32_t> slots_;  // open addressing, a power of two, at most half full
  size_t num_entries_ = 0;
};

}  // namespace sepia::data
