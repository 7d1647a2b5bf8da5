#include "checkpoint/torch/pickle_tree.h"

#include <algorithm>

#include <fmt/format.h>

namespace sepia::checkpoint {
namespace {

constexpr int kMaxDepth = 64;

class TreeCheck {
 public:
  // The longest way down from a value at `depth`. Every container is visited once.
  int Height(const PickleValue& value, int depth) {
    if (auto* const* sequence = std::get_if<PickleSequence*>(&value)) {
      return NodeHeight(**sequence, depth, [&](const auto& visit) {
        for (const PickleValue& item : (*sequence)->items) visit(item);
      });
    }
    if (auto* const* dict = std::get_if<PickleDict*>(&value)) {
      return NodeHeight(**dict, depth, [&](const auto& visit) {
        CheckUniqueKeys(**dict);
        for (const auto& [key, item] : (*dict)->items) visit(item);
      });
    }
    if (auto* const* object = std::get_if<PickleObject*>(&value)) {
      return NodeHeight(**object, depth, [&](const auto& visit) {
        visit((*object)->arguments);
        visit((*object)->state);
      });
    }
    return 0;
  }

  std::optional<std::string> fault() const { return fault_; }

 private:
  template <typename Node, typename ForEachChild>
  int NodeHeight(Node& node, int depth, const ForEachChild& for_each_child) {
    constexpr int kUnderWay = -2;
    if (node.height == kUnderWay) return Note("a value contains itself (a cycle)");
    if (node.height < 0) {
      if (depth >= kMaxDepth) return Note("values are nested too deep");
      node.height = kUnderWay;
      int height = 0;
      for_each_child([&](const PickleValue& child) {
        if (!fault_) height = std::max(height, 1 + Height(child, depth + 1));
      });
      node.height = height;
    }
    if (depth + node.height > kMaxDepth) return Note("values are nested too deep");
    return node.height;
  }

  void CheckUniqueKeys(const PickleDict& dict) {
    std::vector<std::string_view> names;
    std::vector<int64_t> numbers;
    for (const auto& [key, value] : dict.items) {
      if (const auto* name = std::get_if<std::string_view>(&key)) names.push_back(*name);
      if (const auto* number = std::get_if<int64_t>(&key)) numbers.push_back(*number);
    }
    std::sort(names.begin(), names.end());
    std::sort(numbers.begin(), numbers.end());
    const auto name = std::adjacent_find(names.begin(), names.end());
    if (name != names.end()) Note(fmt::format("the key '{}' appears twice", *name));
    const auto number = std::adjacent_find(numbers.begin(), numbers.end());
    if (number != numbers.end()) Note(fmt::format("the key {} appears twice", *number));
  }

  int Note(const std::string& fault) {
    if (!fault_) fault_ = fault;
    return 0;
  }

  std::optional<std::string> fault_;
};

}  // namespace

std::optional<std::string> FindPickleTreeFault(const PickleValue& root) {
  TreeCheck check;
  check.Height(root, 0);
  return check.fault();
}

}  // namespace sepia::checkpoint
