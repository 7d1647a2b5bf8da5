#include "data/tokenizer/vocabulary.h"

#include <functional>

#include "base/check.h"

namespace sepia::data {

size_t Vocabulary::Slot(std::string_view text) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>{}(text)&mask;
  while (slots_[slot] != kNone && texts_[static_cast<size_t>(slots_[slot])] != text) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

void Vocabulary::Grow() {
  slots_.assign(slots_.empty() ? 1024 : slots_.size() * 2, kNone);
  for (size_t id = 0; id < texts_.size(); ++id) {
    if (!texts_[id].empty()) slots_[Slot(texts_[id])] = static_cast<int32_t>(id);
  }
}

Vocabulary::AddResult Vocabulary::Add(int32_t id, std::string_view text) {
  CHECK(id >= 0 && id < kMaxSize && !text.empty(), "id {}", id);
  if (Find(text) != kNone) return AddResult::kTextTaken;
  if (Has(id)) return AddResult::kIdTaken;
  if (2 * (num_entries_ + 1) > slots_.size()) Grow();
  if (id >= size()) texts_.resize(static_cast<size_t>(id) + 1);
  const size_t slot = Slot(text);
  texts_[static_cast<size_t>(id)] = text;
  slots_[slot] = id;
  ++num_entries_;
  return AddResult::kAdded;
}

int32_t Vocabulary::Find(std::string_view text) const {
  return slots_.empty() ? kNone : slots_[Slot(text)];
}

const std::string& Vocabulary::Text(int32_t id) const {
  static const std::string kHole;
  return id >= 0 && id < size() ? texts_[static_cast<size_t>(id)] : kHole;
}

}  // namespace sepia::data
