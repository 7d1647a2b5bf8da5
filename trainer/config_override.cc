// --set: a path with dots, then a value in the grammar of the file.
#include <algorithm>
#include <cctype>
#include <string>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "trainer/config_parser.h"

namespace sepia::trainer {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// The left side of an override, and where its value begins.
struct Target {
  Message* message = nullptr;  // null: a fault was added
  const FieldDescriptor* field = nullptr;
  std::string path;
  size_t value_begin = 0;
};

class OverrideReader {
 public:
  OverrideReader(const std::string& text, int source, ConfigPlaces* places, ConfigFaults* faults)
      : text_(text), source_(source), places_(places), faults_(faults) {}

  void Parse(Message* root) {
    const Target target = ParsePath(root);
    if (target.message == nullptr) return;
    const ConfigPlace place{source_, 1, 1};
    if (target.field->is_repeated()) {
      ClearRepeated(target.message, *target.field, target.path, places_);
    }
    (*places_)[target.path] = place;
    const std::string value = text_.substr(target.value_begin);
    if (IsBareText(*target.field, value)) return SetText(target, value);
    ParseConfigValue(value, source_, static_cast<int>(target.value_begin), target.message,
                     *target.field, target.path, places_, faults_);
  }

 private:
  void Fault(size_t position, const std::string& message) {
    faults_->Add({source_, 1, static_cast<int>(position) + 1}, message);
  }
  size_t SkipSpaces(size_t position) const {
    return std::min(text_.find_first_not_of(" \t\n", position), text_.size());
  }

  Target ParsePath(Message* message) {
    Target target;
    size_t position = SkipSpaces(0);
    while (true) {
      const size_t begin = position;
      while (position < text_.size() && IsNameCharacter(text_[position])) ++position;
      const std::string name = text_.substr(begin, position - begin);
      if (name.empty()) {
        Fault(begin, "expected path=value, for example batch.micro=4");
        return {};
      }
      target.field = message->GetDescriptor()->FindFieldByName(name);
      if (target.field == nullptr) {
        Fault(begin, UnknownField(name, target.path, *message->GetDescriptor()));
        return {};
      }
      target.path = JoinPath(target.path, name);
      target.message = message;
      position = SkipSpaces(position);
      const char next = position < text_.size() ? text_[position] : '\0';
      if (next == '.' || next == '[') {
        message = Descend(&target, &position);
        if (message == nullptr) return {};
        continue;
      }
      if (next == '=' || next == ':') {
        target.value_begin = SkipSpaces(position + 1);
      } else if (next == '{') {
        target.value_begin = position;
      } else {
        Fault(position, fmt::format("expected \"=\" after {}", target.path));
        return {};
      }
      return target;
    }
  }

  // Steps into `field` at "." or "[k].", leaving *position behind the dot; null after a fault.
  Message* Descend(Target* target, size_t* position) {
    const FieldDescriptor& field = *target->field;
    const Reflection* reflection = target->message->GetReflection();
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      Fault(*position, fmt::format("{} has no fields of its own; it takes {}", target->path,
                                   ExpectedValue(field)));
      return nullptr;
    }
    if (!field.is_repeated()) {
      if (text_[*position] == '[') {
        Fault(*position, fmt::format("{} is not repeated", target->path));
        return nullptr;
      }
      ++*position;
      return reflection->MutableMessage(target->message, &field);
    }
    const int size = reflection->FieldSize(*target->message, &field);
    const size_t close = text_.find(']', *position);
    const std::string digits = text_[*position] == '[' && close != std::string::npos
                                   ? text_.substr(*position + 1, close - *position - 1)
                                   : "";
    const bool is_number = !digits.empty() && digits.size() <= 6 &&
                           std::all_of(digits.begin(), digits.end(),
                                       [](unsigned char c) { return std::isdigit(c) != 0; });
    if (!is_number || std::stoi(digits) >= size || text_.compare(close + 1, 1, ".") != 0) {
      Fault(*position,
            fmt::format("{} is repeated and has {} element{}: replace it with {}=[...] "
                        "or name a field of one, {}[0].field=value",
                        target->path, size, size == 1 ? "" : "s", target->path, target->path));
      return nullptr;
    }
    *position = close + 2;
    target->path += fmt::format("[{}]", digits);
    return reflection->MutableRepeatedMessage(target->message, &field, std::stoi(digits));
  }

  static bool IsNameCharacter(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
  }

  // A string without quotes: the rest of the argument as it stands.
  static bool IsBareText(const FieldDescriptor& field, const std::string& value) {
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_STRING) return false;
    const bool quoted = !value.empty() && (value[0] == '"' || value[0] == '\'');
    const bool list = field.is_repeated() && !value.empty() && value[0] == '[';
    return !quoted && !list;
  }

  static void SetText(const Target& target, const std::string& value) {
    const Reflection* reflection = target.message->GetReflection();
    if (target.field->is_repeated()) {
      reflection->AddString(target.message, target.field, value);
    } else {
      reflection->SetString(target.message, target.field, value);
    }
  }

  const std::string& text_;
  int source_;
  ConfigPlaces* places_;
  ConfigFaults* faults_;
};

}  // namespace

void ParseConfigOverride(const std::string& text, int source, Message* message,
                         ConfigPlaces* places, ConfigFaults* faults) {
  OverrideReader(text, source, places, faults).Parse(message);
}

}  // namespace sepia::trainer
