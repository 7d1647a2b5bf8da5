#include "checkpoint/neox/neox_dict.h"

#include "base/error.h"

namespace sepia::checkpoint {

void NeoxDict::Fail(std::string_view key, const std::string& reason) const {
  throw BadData(*path_, -1, fmt::format("{}{} {}", where_, key, reason),
                "the file is damaged or of an unknown version of DeepSpeed");
}

const PickleValue* NeoxDict::Find(std::string_view key) const {
  const PickleValue* value = FindKey(*dict_, key);
  return value == nullptr || std::holds_alternative<PickleNone>(*value) ? nullptr : value;
}

const PickleValue& NeoxDict::Get(std::string_view key) const {
  const PickleValue* value = Find(key);
  if (value == nullptr) Fail(key, "is missing");
  return *value;
}

NeoxDict NeoxDict::GetDict(std::string_view key) const {
  const PickleValue& value = Get(key);
  const auto* dict = PointerTo<PickleDict>(value);
  if (dict == nullptr) Fail(key, fmt::format("is {}, not a dict", Describe(value)));
  return {*dict, *path_, fmt::format("{}{}.", where_, key)};
}

const PickleSequence& NeoxDict::GetSequence(std::string_view key) const {
  const PickleValue& value = Get(key);
  const auto* sequence = PointerTo<PickleSequence>(value);
  if (sequence == nullptr) Fail(key, fmt::format("is {}, not a list", Describe(value)));
  return *sequence;
}

double NeoxDict::Number(std::string_view key, double otherwise) const {
  const PickleValue* value = Find(key);
  if (value == nullptr) return otherwise;
  if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
  if (const auto* number = std::get_if<double>(value)) return *number;
  Fail(key, fmt::format("is {}, not a number", Describe(*value)));
}

int64_t NeoxDict::Count(std::string_view key) const {
  const PickleValue& value = Get(key);
  const auto* integer = std::get_if<int64_t>(&value);
  if (integer == nullptr || *integer < 0) Fail(key, "is no count");
  return *integer;
}

}  // namespace sepia::checkpoint
