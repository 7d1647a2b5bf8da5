#include "checkpoint/neox/yaml.h"

#include <yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "base/file.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr int kMaxDepth = 16;

// Numbers as PyYAML reads them, and also "1e-8", which it takes for a string.
JsonValue PlainScalar(std::string text) {
  constexpr std::array<std::string_view, 4> kNulls = {"", "~", "null", "Null"};
  constexpr std::array<std::string_view, 6> kTrue = {"true", "True", "yes", "Yes", "on", "On"};
  constexpr std::array<std::string_view, 6> kFalse = {"false", "False", "no", "No", "off", "Off"};
  const auto is_one_of = [&](const auto& words) {
    return std::find(words.begin(), words.end(), text) != words.end();
  };
  if (is_one_of(kNulls)) return {nullptr};
  if (is_one_of(kTrue)) return {true};
  if (is_one_of(kFalse)) return {false};
  const char* begin = text.data() + (text[0] == '+' ? 1 : 0);
  const char* end = text.data() + text.size();
  int64_t integer = 0;
  auto parsed = std::from_chars(begin, end, integer);
  if (parsed.ec == std::errc() && parsed.ptr == end) return {integer};
  double number = 0;
  parsed = std::from_chars(begin, end, number);
  if (parsed.ec == std::errc() && parsed.ptr == end && std::isfinite(number)) return {number};
  return {std::move(text)};
}

// Builds the tree from libyaml's events. Recursion is bounded by kMaxDepth.
class YamlReader {
 public:
  YamlReader(std::string_view text, const std::string& path) : path_(path) {
    if (yaml_parser_initialize(&parser_) == 0) throw std::bad_alloc();
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()),
                                 text.size());
  }
  ~YamlReader() {
    yaml_event_delete(&event_);
    yaml_parser_delete(&parser_);
  }
  YamlReader(const YamlReader&) = delete;
  YamlReader& operator=(const YamlReader&) = delete;

  JsonObject Run() {
    Expect(YAML_STREAM_START_EVENT, "no YAML");
    Next();
    if (event_.type == YAML_STREAM_END_EVENT) return {};  // comments only
    if (event_.type != YAML_DOCUMENT_START_EVENT) Fail("no YAML document");
    Expect(YAML_MAPPING_START_EVENT, "the document is no mapping of keys to values");
    JsonObject root = Mapping(1);
    Expect(YAML_DOCUMENT_END_EVENT, "content follows the mapping");
    Expect(YAML_STREAM_END_EVENT, "more than one document");
    return root;
  }

 private:
  [[noreturn]] void Fail(const std::string& reason) const {
    const yaml_mark_t& mark =
        event_.type == YAML_NO_EVENT ? parser_.problem_mark : event_.start_mark;
    throw BadData(fmt::format("{}:{}:{}", path_, mark.line + 1, mark.column + 1), -1, reason);
  }

  void Next() {
    yaml_event_delete(&event_);
    if (yaml_parser_parse(&parser_, &event_) == 0) {
      event_.type = YAML_NO_EVENT;
      Fail(fmt::format("not valid YAML: {}",
                       parser_.problem == nullptr ? "out of memory" : parser_.problem));
    }
  }
  void Expect(yaml_event_type_t type, const char* otherwise) {
    Next();
    if (event_.type != type) Fail(otherwise);
  }

  std::string Text() const {
    const auto& scalar = event_.data.scalar;
    return {reinterpret_cast<const char*>(scalar.value), scalar.length};
  }

  JsonObject Mapping(int depth) {
    RefuseDecoration(event_.data.mapping_start.anchor, event_.data.mapping_start.tag);
    if (depth > kMaxDepth) Fail("nested too deep");
    JsonObject object;
    for (Next(); event_.type != YAML_MAPPING_END_EVENT; Next()) {
      if (event_.type != YAML_SCALAR_EVENT) Fail("a key that is no string");
      std::string key = Text();
      if (FindKey(object, key) != nullptr) Fail(fmt::format("the key '{}' appears twice", key));
      Next();
      object.push_back({std::move(key), Value(depth + 1)});
    }
    return object;
  }

  JsonArray Sequence(int depth) {
    RefuseDecoration(event_.data.sequence_start.anchor, event_.data.sequence_start.tag);
    if (depth > kMaxDepth) Fail("nested too deep");
    JsonArray array;
    for (Next(); event_.type != YAML_SEQUENCE_END_EVENT; Next()) array.push_back(Value(depth + 1));
    return array;
  }

  JsonValue Value(int depth) {
    switch (event_.type) {
      case YAML_MAPPING_START_EVENT: return {Mapping(depth)};
      case YAML_SEQUENCE_START_EVENT: return {Sequence(depth)};
      case YAML_SCALAR_EVENT: break;
      case YAML_ALIAS_EVENT: Fail("aliases are not supported");
      default: Fail("an unexpected end");
    }
    RefuseDecoration(event_.data.scalar.anchor, event_.data.scalar.tag);
    if (event_.data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return {Text()};
    return PlainScalar(Text());
  }

  void RefuseDecoration(const unsigned char* anchor, const unsigned char* tag) const {
    if (anchor != nullptr || tag != nullptr) Fail("anchors and tags are not supported");
  }

  const std::string& path_;
  yaml_parser_t parser_{};
  yaml_event_t event_{};
};

}  // namespace

JsonObject ParseYamlObject(std::string_view text, const std::string& path) {
  return YamlReader(text, path).Run();
}

JsonObject ReadYamlObject(const std::string& path) {
  return ParseYamlObject(ReadFile(path, kMaxFileBytes), path);
}

}  // namespace sepia::checkpoint
