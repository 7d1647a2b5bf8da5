#include "data/tokenizer/json_settings.h"

#include "base/error.h"

namespace sepia::data {

void JsonSettings::Put(const std::string& name, Value value) {
  constexpr size_t kMaxValues = 1000;
  if (values_.size() >= kMaxValues) Refuse(name, "more settings than any tokenizer has");
  values_.insert_or_assign(name, std::move(value));
}

void JsonSettings::Refuse(const std::string& name, const std::string& reason,
                          const std::string& remedy) const {
  throw BadData(file_, -1, prefix_ + name + ": " + reason, remedy);
}

template <typename T>
bool JsonSettings::Take(const std::string& name, const char* type, T& value) {
  const auto found = values_.find(name);
  if (found == values_.end()) return false;
  const Value taken = std::move(found->second);
  values_.erase(found);
  if (std::holds_alternative<std::nullptr_t>(taken)) return false;
  if (!std::holds_alternative<T>(taken)) Refuse(name, std::string("must be ") + type);
  value = std::get<T>(taken);
  return true;
}

bool JsonSettings::TakeBool(const std::string& name, bool otherwise) {
  bool value = otherwise;
  Take(name, "true or false", value);
  return value;
}

std::string JsonSettings::TakeString(const std::string& name, const std::string& otherwise) {
  std::string value = otherwise;
  Take(name, "a string", value);
  return value;
}

int64_t JsonSettings::TakeInteger(const std::string& name) {
  int64_t value = 0;
  if (!Take(name, "an integer", value)) Refuse(name, "is missing");
  return value;
}

std::string JsonSettings::TakeString(const std::string& name) {
  std::string value;
  if (!Take(name, "a string", value)) Refuse(name, "is missing");
  return value;
}

void JsonSettings::TakeNull(const std::string& name) {
  const auto first = values_.lower_bound(name);
  for (auto it = first; it != values_.end() && it->first.starts_with(name);
       it = values_.erase(it)) {
    if (!std::holds_alternative<std::nullptr_t>(it->second)) {
      Refuse(it->first, "is not supported", "set " + name + " to null");
    }
  }
}

void JsonSettings::Ignore(const std::string& name) { values_.erase(name); }

void JsonSettings::Finish() const {
  if (values_.empty()) return;
  Refuse(values_.begin()->first, "is not a field that Sepia knows",
         "use a byte-level BPE tokenizer.json without it");
}

}  // namespace sepia::data
