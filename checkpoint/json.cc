#include "checkpoint/json.h"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace sepia::checkpoint {
namespace {

constexpr size_t kMaxDepth = 16;
constexpr int64_t kMaxFileBytes = 16 << 20;
constexpr size_t kBytesPerValue = 160;  // of memory, growth of the vectors included

// Builds the tree from the events of nlohmann's parser, which is iterative.
class TreeBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  TreeBuilder(const std::string& path, size_t text_bytes)
      : path_(path),
        values_left_((16 << 20) / kBytesPerValue + text_bytes / (kBytesPerValue / 2)) {}

  JsonValue TakeRoot() { return std::move(root_); }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(int64_t value) override { return Add(value); }
  bool number_unsigned(uint64_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) return Add(static_cast<double>(value));
    return Add(static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string& text) override {
    if (!std::isfinite(value))
      Fail(fmt::format("the number {} is out of range", text.substr(0, 32)));
    return Add(value);
  }
  bool string(std::string& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(JsonObject()); }
  bool start_array(size_t) override { return Open(JsonArray()); }
  bool end_object() override {
    CheckUniqueKeys(std::get<JsonObject>(open_.back()->value));
    return open_.pop_back(), true;
  }
  bool end_array() override { return open_.pop_back(), true; }
  bool key(std::string& name) override {
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    throw BadData(path_, static_cast<int64_t>(position), "not valid JSON in UTF-8",
                  "the file is damaged or no JSON");
  }

 private:
  [[noreturn]] void Fail(const std::string& reason) const { throw BadData(path_, -1, reason); }

  void CheckUniqueKeys(const JsonObject& object) const {
    std::vector<std::string_view> keys;
    keys.reserve(object.size());
    for (const auto& [name, value] : object) keys.push_back(name);
    std::sort(keys.begin(), keys.end());
    const auto twin = std::adjacent_find(keys.begin(), keys.end());
    if (twin != keys.end()) Fail(fmt::format("the key '{}' appears twice in one object", *twin));
  }

  bool Add(decltype(JsonValue::value) value) {
    Place(std::move(value));
    return true;
  }

  bool Open(decltype(JsonValue::value) value) {
    if (open_.size() == kMaxDepth) Fail(fmt::format("nested deeper than {} levels", kMaxDepth));
    open_.push_back(Place(std::move(value)));
    return true;
  }

  // Pointers in open_ stay valid: a container grows only while it is the innermost one.
  JsonValue* Place(decltype(JsonValue::value) value) {
    if (values_left_-- == 0) Fail("too many values for a file of this kind");
    if (open_.empty()) {
      root_.value = std::move(value);
      return &root_;
    }
    if (auto* array = std::get_if<JsonArray>(&open_.back()->value)) {
      array->push_back({std::move(value)});
      return &array->back();
    }
    auto& object = std::get<JsonObject>(open_.back()->value);
    object.push_back({std::move(key_), JsonValue{std::move(value)}});
    return &object.back().value;
  }

  const std::string& path_;
  size_t values_left_;
  JsonValue root_;
  std::vector<JsonValue*> open_;
  std::string key_;
};

}  // namespace

std::string_view JsonValue::TypeName() const {
  constexpr std::string_view kNames[] = {"null",     "a boolean", "a number", "a number",
                                         "a string", "a list",    "an object"};
  return kNames[value.index()];
}

const JsonValue* FindKey(const JsonObject& object, std::string_view key) {
  for (const auto& [name, value] : object) {
    if (name == key) return &value;
  }
  return nullptr;
}

JsonObject ParseJsonObject(std::string_view text, const std::string& path) {
  // nlohmann's lexer takes NUL for the end of the input.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw BadData(path, static_cast<int64_t>(nul), "a NUL byte in JSON", "the file is damaged");
  }
  TreeBuilder builder(path, text.size());
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  JsonValue root = builder.TakeRoot();
  auto* object = std::get_if<JsonObject>(&root.value);
  if (object == nullptr) {
    throw BadData(path, 0, fmt::format("holds {} instead of a JSON object", root.TypeName()));
  }
  return std::move(*object);
}

JsonObject ReadJsonObject(const std::string& path) {
  return ParseJsonObject(ReadFile(path, kMaxFileBytes), path);
}

}  // namespace sepia::checkpoint
