// Finds literal texts: leftmost first, the longest of those that begin there.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace sepia::data {

// A byte trie. Immutable after the Add calls; thread-safe.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() { roots_.fill(kNone); }

  // The first id of equal texts stays. `text` must not be empty.
  void Add(std::string_view text, int32_t id);

  struct Match {
    size_t begin;
    size_t length;  // 0: nothing found
    int32_t id;
  };
  // The first match at or after `begin`. Time: O(text * longest token) at worst.
  Match Find(std::string_view text, size_t begin) const;

 private:
  static constexpr int32_t kNone = -1;

  struct Node {
    int32_t first_child = kNone;
    int32_t next_sibling = kNone;
    int32_t id = kNone;  // of the token that ends here
    uint8_t byte = 0;
  };

  int32_t NewNode(uint8_t byte);
  int32_t Child(int32_t node, uint8_t byte) const;

  std::array<int32_t, 256> roots_;
  std::vector<Node> nodes_;
};

}  // namespace sepia::data
