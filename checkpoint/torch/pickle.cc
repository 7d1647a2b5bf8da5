#include "checkpoint/torch/pickle.h"

namespace sepia::checkpoint {

std::string Describe(const PickleValue& value) {
  struct Words {
    std::string operator()(PickleNone) const { return "None"; }
    std::string operator()(bool) const { return "a boolean"; }
    std::string operator()(int64_t) const { return "an integer"; }
    std::string operator()(double) const { return "a float"; }
    std::string operator()(std::string_view) const { return "a string"; }
    std::string operator()(PickleLong) const { return "a long integer"; }
    std::string operator()(const PickleSymbol* symbol) const { return symbol->FullName(); }
    std::string operator()(PickleSequence* s) const { return s->is_tuple ? "a tuple" : "a list"; }
    std::string operator()(PickleDict*) const { return "a dict"; }
    std::string operator()(PickleObject* o) const { return "an object " + o->type.FullName(); }
    std::string operator()(const TorchStorage*) const { return "a storage"; }
    std::string operator()(const TorchTensor*) const { return "a tensor"; }
  };
  return std::visit(Words(), value);
}

const PickleValue* FindKey(const PickleDict& dict, std::string_view key) {
  for (const auto& [name, value] : dict.items) {
    const auto* text = std::get_if<std::string_view>(&name);
    if (text != nullptr && *text == key) return &value;
  }
  return nullptr;
}

}  // namespace sepia::checkpoint
