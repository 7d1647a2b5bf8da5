// The scalar values of a JSON object by dotted name, taken out one by one with their expected type;
// what nobody took is something the reader does not know, and therefore refuses.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>

namespace sepia::data {

class JsonSettings {
 public:
  using Value = std::variant<std::nullptr_t, bool, int64_t, double, std::string>;

  // `file` and `prefix` are for messages.
  explicit JsonSettings(std::string file, std::string prefix = "")
      : file_(std::move(file)), prefix_(std::move(prefix)) {}

  void Put(const std::string& name, Value value);

  // Absent or null: `otherwise`. Another type: UserError(kBadData).
  bool TakeBool(const std::string& name, bool otherwise);
  std::string TakeString(const std::string& name, const std::string& otherwise);
  // Must be there.
  int64_t TakeInteger(const std::string& name);
  std::string TakeString(const std::string& name);

  // Null or absent, else UserError: "<name> is not supported; set it to null".
  void TakeNull(const std::string& name);
  // Whatever it is.
  void Ignore(const std::string& name);
  // Throws if something is left.
  void Finish() const;

  // UserError(kBadData) about `name`.
  [[noreturn]] void Refuse(const std::string& name, const std::string& reason,
                           const std::string& remedy = "") const;

 private:
  template <typename T>
  bool Take(const std::string& name, const char* type, T& value);

  std::string file_;
  std::string prefix_;
  std::map<std::string, Value> values_;
};

}  // namespace sepia::data
