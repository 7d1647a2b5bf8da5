#include "data/tokenizer/added_token_matcher.h"

namespace sepia::data {

int32_t AddedTokenMatcher::NewNode(uint8_t byte) {
  nodes_.emplace_back();
  nodes_.back().byte = byte;
  return static_cast<int32_t>(nodes_.size()) - 1;
}

int32_t AddedTokenMatcher::Child(int32_t node, uint8_t byte) const {
  int32_t child = nodes_[static_cast<size_t>(node)].first_child;
  while (child != kNone && nodes_[static_cast<size_t>(child)].byte != byte) {
    child = nodes_[static_cast<size_t>(child)].next_sibling;
  }
  return child;
}

void AddedTokenMatcher::Add(std::string_view text, int32_t id) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (roots_[first] == kNone) roots_[first] = NewNode(first);
  int32_t node = roots_[first];
  for (const char c : text.substr(1)) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t child = Child(node, byte);
    if (child == kNone) {
      child = NewNode(byte);
      Node& parent = nodes_[static_cast<size_t>(node)];
      nodes_[static_cast<size_t>(child)].next_sibling = parent.first_child;
      parent.first_child = child;
    }
    node = child;
  }
  int32_t& end = nodes_[static_cast<size_t>(node)].id;
  if (end == kNone) end = id;
}

AddedTokenMatcher::Match AddedTokenMatcher::Find(std::string_view text, size_t begin) const {
  if (nodes_.empty()) return {text.size(), 0, kNone};
  for (; begin < text.size(); ++begin) {
    int32_t node = roots_[static_cast<uint8_t>(text[begin])];
    Match longest{begin, 0, kNone};
    for (size_t end = begin + 1; node != kNone; ++end) {
      const int32_t id = nodes_[static_cast<size_t>(node)].id;
      if (id != kNone) longest = {begin, end - begin, id};
      node = end < text.size() ? Child(node, static_cast<uint8_t>(text[end])) : kNone;
    }
    if (longest.length > 0) return longest;
  }
  return {text.size(), 0, kNone};
}

}  // namespace sepia::data
