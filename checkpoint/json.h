// JSON from outside as a plain tree: strict grammar, unique keys, bounded depth and size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sepia::checkpoint {

struct JsonValue;
struct JsonMember;
using JsonArray = std::vector<JsonValue>;
using JsonObject = std::vector<JsonMember>;  // in the order of the text

struct JsonValue {
  // Integers that do not fit int64 become double.
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, JsonArray, JsonObject> value;

  template <typename T>
  const T* As() const {
    return std::get_if<T>(&value);
  }
  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value); }
  // "null", "a number", "a string", ...
  std::string_view TypeName() const;
};

struct JsonMember {
  std::string key;
  JsonValue value;
};

// Null when absent.
const JsonValue* FindKey(const JsonObject& object, std::string_view key);

// The object in a file of at most 16 MiB. Throws BadData with the offset of the fault.
JsonObject ReadJsonObject(const std::string& path);

// The same for text that was read from `path`.
JsonObject ParseJsonObject(std::string_view text, const std::string& path);

}  // namespace sepia::checkpoint
