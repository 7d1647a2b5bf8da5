#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/tokenizer/corpus_reader.h"
#include "base/utf8.h"

namespace sepia::data {
namespace {

using Json = nlohmann::json;

std::string Place(const RawDocument& document) {
  return document.is_json ? fmt::format("{}:{}", *document.path, document.line) : *document.path;
}

// Takes one string out of the outermost object; everything else is only checked to be JSON.
class TextHandler : public nlohmann::json_sax<Json> {
 public:
  TextHandler(const RawDocument& document, const std::string& key)
      : document_(document), key_(key) {}

  bool null() override { return Other(); }
  bool boolean(bool) override { return Other(); }
  bool number_integer(number_integer_t) override { return Other(); }
  bool number_unsigned(number_unsigned_t) override { return Other(); }
  bool number_float(number_float_t, const string_t&) override { return Other(); }
  bool binary(binary_t&) override { return false; }
  bool string(string_t& value) override {
    if (depth_ == 0) Fail(0, "a line must be an object");
    if (wanted_) text = std::move(value);
    wanted_ = false;
    return true;
  }
  bool key(string_t& key) override {
    wanted_ = depth_ == 1 && key == key_;
    if (wanted_ && text.has_value()) Fail(0, fmt::format("the key \"{}\" appears twice", key_));
    return true;
  }
  bool start_object(size_t) override { return Begin(true); }
  bool start_array(size_t) override { return Begin(false); }
  bool end_object() override { return End(); }
  bool end_array() override { return End(); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    Fail(static_cast<int64_t>(position), "not valid JSON");
  }

  [[noreturn]] void Fail(int64_t offset, const std::string& reason,
                         const std::string& remedy = "") const {
    throw BadData(Place(document_), document_.offset + offset, reason, remedy);
  }

  std::optional<std::string> text;

 private:
  bool Begin(bool object) {
    if (depth_ == 0 && !object) Fail(0, "a line must be an object");
    Other();
    ++depth_;
    return true;
  }
  bool End() {
    --depth_;
    return true;
  }
  // A value that is no string.
  bool Other() const {
    if (depth_ == 0) return true;  // Begin has looked at it
    if (wanted_) Fail(0, fmt::format("the value of \"{}\" must be a string", key_));
    return true;
  }

  const RawDocument& document_;
  const std::string& key_;
  int64_t depth_ = 0;
  bool wanted_ = false;  // the next value belongs to key_
};

std::string JsonText(const RawDocument& document, const std::string& key) {
  TextHandler handler(document, key);
  Json::sax_parse(document.bytes.begin(), document.bytes.end(), &handler);
  if (!handler.text.has_value()) {
    handler.Fail(0, fmt::format("no key \"{}\" in this line", key), "name another with --json-key");
  }
  return *std::move(handler.text);
}

}  // namespace

std::optional<std::string> DocumentText(RawDocument document, const CorpusOptions& options) {
  if (const size_t bad = FirstInvalidUtf8(document.bytes); bad != document.bytes.size()) {
    if (options.on_invalid_utf8 == OnInvalidUtf8::kError) {
      throw BadData(Place(document), document.offset + static_cast<int64_t>(bad), "not UTF-8 here",
                    "convert the file, or pass --on-invalid-utf8 replace");
    }
    document.bytes = ReplaceInvalidUtf8(document.bytes);
  }
  if (!document.is_json) return std::move(document.bytes);
  if (document.bytes.find_first_not_of(" \t\r") == std::string::npos) return std::nullopt;
  return JsonText(document, options.json_key);
}

}  // namespace sepia::data
