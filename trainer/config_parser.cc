#include "trainer/config_parser.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message.h>

#include "base/suggest.h"

namespace sepia::trainer {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::io::ArrayInputStream;
using google::protobuf::io::Tokenizer;

// For messages: "model" or, at the top, "the config".
std::string MessageName(const std::string& path) { return path.empty() ? "the config" : path; }

std::vector<std::string> FieldNames(const Descriptor& descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor.field_count(); ++i) names.push_back(descriptor.field(i)->name());
  return names;
}

std::vector<std::string> ValueNames(const EnumDescriptor& descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor.value_count(); ++i) names.push_back(descriptor.value(i)->name());
  return names;
}

class Reader : public google::protobuf::io::ErrorCollector {
 public:
  // `first_column` is the column of text[0], from 0.
  Reader(const std::string& text, int source, int first_column, ConfigPlaces* places,
         ConfigFaults* faults)
      : stream_(text.data(), static_cast<int>(text.size())),
        tokenizer_(&stream_, this),
        source_(source),
        first_column_(first_column),
        places_(places),
        faults_(faults) {
    tokenizer_.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
    tokenizer_.set_allow_f_after_float(true);
    tokenizer_.Next();
  }

  void ParseAll(Message* message) { ParseFields(message, "", ""); }

  // The value of an override and nothing after it.
  void ParseOnly(Message* message, const FieldDescriptor& field, const std::string& path) {
    ParseValue(message, field, path);
    if (!AtEnd()) Fault(fmt::format("unexpected \"{}\" after the value", Text()));
  }

 private:
  // --- tokens
  const std::string& Text() { return tokenizer_.current().text; }
  Tokenizer::TokenType Type() { return tokenizer_.current().type; }
  bool AtEnd() { return Type() == Tokenizer::TYPE_END; }
  bool LookingAt(std::string_view symbol) {
    return Type() == Tokenizer::TYPE_SYMBOL && Text() == symbol;
  }
  bool LookingAtOpening() { return LookingAt("{") || LookingAt("<") || LookingAt("["); }
  bool LookingAtClosing() { return LookingAt("}") || LookingAt(">") || LookingAt("]"); }
  bool TryConsume(std::string_view symbol) {
    if (!LookingAt(symbol)) return false;
    tokenizer_.Next();
    return true;
  }
  std::string Found() { return AtEnd() ? "the end" : fmt::format("\"{}\"", Text()); }

  // --- faults
  ConfigPlace Place() {
    const Tokenizer::Token& token = tokenizer_.current();
    return {source_, token.line + 1, token.column + first_column_ + 1};
  }
  void Fault(const std::string& message) { faults_->Add(Place(), message); }
  void AddError(int line, int column, const std::string& message) override {
    faults_->Add({source_, line + 1, column + first_column_ + 1}, "syntax: " + message);
  }

  // --- after a fault
  void SkipBalanced() {
    int64_t depth = 0;
    do {
      if (LookingAtOpening()) ++depth;
      if (LookingAtClosing()) --depth;
    } while (tokenizer_.Next() && depth > 0);
  }
  void SkipScalar() {
    TryConsume("-");
    if (AtEnd() || LookingAtClosing()) return;
    if (Type() != Tokenizer::TYPE_STRING) {
      tokenizer_.Next();
      return;
    }
    while (Type() == Tokenizer::TYPE_STRING) tokenizer_.Next();
  }
  void SkipValue() {
    const bool colon = TryConsume(":");
    if (LookingAtOpening()) {
      SkipBalanced();
    } else if (colon) {
      SkipScalar();
    }
  }

  // --- grammar
  // Fields up to `closing` ("}" or ">"), or to the end of the text when it is empty.
  void ParseFields(Message* message, const std::string& path, std::string_view closing) {
    while (!faults_->full()) {
      if (AtEnd()) {
        if (!closing.empty()) {
          Fault(fmt::format("missing \"{}\" at the end of {}", closing, MessageName(path)));
        }
        return;
      }
      if (!closing.empty() && TryConsume(closing)) return;
      if (Type() == Tokenizer::TYPE_IDENTIFIER) {
        ParseField(message, path);
        if (!TryConsume(",")) TryConsume(";");
        continue;
      }
      Fault(fmt::format("expected a field name, found {}", Found()));
      if (LookingAtOpening()) {
        SkipBalanced();
      } else {
        tokenizer_.Next();
      }
    }
  }

  void ParseField(Message* message, const std::string& path) {
    const std::string name = Text();
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr) {
      Fault(UnknownField(name, path, *message->GetDescriptor()));
      tokenizer_.Next();
      SkipValue();
      return;
    }
    const std::string field_path = JoinPath(path, name);
    RecordPlace(message, *field, field_path);
    tokenizer_.Next();
    const bool is_message = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!TryConsume(":") && !is_message) {
      Fault(fmt::format("expected \":\" after \"{}\", found {}", name, Found()));
      SkipValue();
      return;
    }
    ParseValue(message, *field, field_path);
  }

  // Singular fields once; a repeated field of an earlier source is replaced.
  void RecordPlace(Message* message, const FieldDescriptor& field, const std::string& path) {
    const auto found = places_->find(path);
    const bool same_source = found != places_->end() && found->second.source == source_;
    if (field.is_repeated()) {
      if (same_source) return;
      ClearRepeated(message, field, path, places_);
    } else if (same_source) {
      Fault(
          fmt::format("\"{}\" is given twice; the first is in line {}", path, found->second.line));
    }
    (*places_)[path] = Place();
  }

  void ParseValue(Message* message, const FieldDescriptor& field, const std::string& path) {
    if (!LookingAt("[")) return ParseElement(message, field, path);
    if (!field.is_repeated()) {
      Fault(fmt::format("{} takes one value, not a list", path));
      SkipBalanced();
      return;
    }
    tokenizer_.Next();
    if (TryConsume("]")) return;
    while (true) {
      ParseElement(message, field, path);
      if (TryConsume("]")) return;
      if (TryConsume(",")) continue;
      Fault(fmt::format("expected \",\" or \"]\" in the list of {}, found {}", path, Found()));
      return;
    }
  }

  void ParseElement(Message* message, const FieldDescriptor& field, const std::string& path) {
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!ParseScalar(message, field, path)) SkipScalar();
      return;
    }
    const std::string_view closing = LookingAt("<") ? ">" : "}";
    if (!LookingAt("{") && !LookingAt("<")) {
      Fault(fmt::format("expected \"{{\" after {}, found {}", path, Found()));
      SkipScalar();
      return;
    }
    const Reflection* reflection = message->GetReflection();
    if (!field.is_repeated()) {
      tokenizer_.Next();
      return ParseFields(reflection->MutableMessage(message, &field), path, closing);
    }
    const std::string element_path =
        fmt::format("{}[{}]", path, reflection->FieldSize(*message, &field));
    (*places_)[element_path] = Place();
    tokenizer_.Next();
    ParseFields(reflection->AddMessage(message, &field), element_path, closing);
  }

  // False, with a fault, when the current token is not a value of this type.
  bool ParseScalar(Message* message, const FieldDescriptor& field, const std::string& path) {
    const Reflection* r = message->GetReflection();
    const bool add = field.is_repeated();
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_BOOL: {
        if (Text() != "true" && Text() != "false") return Mistyped(field, path);
        const bool value = Text() == "true";
        add ? r->AddBool(message, &field, value) : r->SetBool(message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_ENUM: {
        const auto* value = Type() == Tokenizer::TYPE_IDENTIFIER
                                ? field.enum_type()->FindValueByName(Text())
                                : nullptr;
        if (value == nullptr) return Mistyped(field, path);
        add ? r->AddEnum(message, &field, value) : r->SetEnum(message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_STRING: {
        if (Type() != Tokenizer::TYPE_STRING) return Mistyped(field, path);
        std::string value;
        for (; Type() == Tokenizer::TYPE_STRING; tokenizer_.Next()) {
          Tokenizer::ParseStringAppend(Text(), &value);
        }
        add ? r->AddString(message, &field, value) : r->SetString(message, &field, value);
        return true;
      }
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        double value = 0;
        if (!ParseDouble(field, path, &value)) return false;
        add ? r->AddDouble(message, &field, value) : r->SetDouble(message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_INT32: {
        int64_t value = 0;
        if (!ParseInteger(field, path, std::numeric_limits<int32_t>::max(), &value)) return false;
        const auto narrow = static_cast<int32_t>(value);
        add ? r->AddInt32(message, &field, narrow) : r->SetInt32(message, &field, narrow);
        break;
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        int64_t value = 0;
        if (!ParseInteger(field, path, std::numeric_limits<int64_t>::max(), &value)) return false;
        add ? r->AddInt64(message, &field, value) : r->SetInt64(message, &field, value);
        break;
      }
      default: return Mistyped(field, path);
    }
    tokenizer_.Next();
    return true;
  }

  bool Mistyped(const FieldDescriptor& field, const std::string& path) {
    std::string hint;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
      hint = DidYouMean(Text(), ValueNames(*field.enum_type()));
    }
    Fault(fmt::format("{}: expected {}, found {}{}", path, ExpectedValue(field), Found(), hint));
    return false;
  }

  bool ParseInteger(const FieldDescriptor& field, const std::string& path, int64_t max,
                    int64_t* value) {
    const bool negative = TryConsume("-");
    if (Type() != Tokenizer::TYPE_INTEGER) return Mistyped(field, path);
    if (Text().size() > 1 && Text()[0] == '0' && std::isdigit(Text()[1]) != 0) {
      Fault(fmt::format("{}: {} would be an octal number; leave out the leading 0", path, Text()));
      return false;
    }
    uint64_t magnitude = 0;
    const uint64_t limit = static_cast<uint64_t>(max) + (negative ? 1 : 0);
    if (!Tokenizer::ParseInteger(Text(), limit, &magnitude)) {
      Fault(fmt::format("{}: {}{} is outside -{} ... {}", path, negative ? "-" : "", Text(),
                        static_cast<uint64_t>(max) + 1, max));
      return false;
    }
    *value = static_cast<int64_t>(negative ? 0 - magnitude : magnitude);
    return true;
  }

  bool ParseDouble(const FieldDescriptor& field, const std::string& path, double* value) {
    const bool negative = TryConsume("-");
    const bool number = Type() == Tokenizer::TYPE_INTEGER || Type() == Tokenizer::TYPE_FLOAT;
    if (!number) return Mistyped(field, path);
    if (Text().size() > 1 && Text()[0] == '0' && Type() == Tokenizer::TYPE_INTEGER) {
      Fault(fmt::format("{}: write {} as a decimal number without leading 0", path, Text()));
      return false;
    }
    *value = Tokenizer::ParseFloat(Text()) * (negative ? -1 : 1);
    if (std::isfinite(*value)) return true;
    Fault(fmt::format("{}: {} is too large", path, Text()));
    return false;
  }

  ArrayInputStream stream_;
  Tokenizer tokenizer_;
  int source_;
  int first_column_;
  ConfigPlaces* places_;
  ConfigFaults* faults_;
};

}  // namespace

std::string JoinPath(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

std::string UnknownField(const std::string& name, const std::string& path,
                         const Descriptor& descriptor) {
  return fmt::format("unknown field \"{}\" in {}{}", name, MessageName(path),
                     DidYouMean(name, FieldNames(descriptor)));
}

// What a value of this field looks like, for messages.
std::string ExpectedValue(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: return "true or false";
    case FieldDescriptor::CPPTYPE_DOUBLE: return "a number";
    case FieldDescriptor::CPPTYPE_STRING: return "a text in quotes";
    case FieldDescriptor::CPPTYPE_MESSAGE: return "{ ... }";
    case FieldDescriptor::CPPTYPE_ENUM:
      return fmt::format("one of {}", fmt::join(ValueNames(*field.enum_type()), ", "));
    default: return "a whole number";
  }
}

void ParseConfigText(const std::string& text, int source, Message* message, ConfigPlaces* places,
                     ConfigFaults* faults) {
  Reader(text, source, 0, places, faults).ParseAll(message);
}

void ParseConfigValue(const std::string& text, int source, int first_column, Message* message,
                      const FieldDescriptor& field, const std::string& path, ConfigPlaces* places,
                      ConfigFaults* faults) {
  Reader(text, source, first_column, places, faults).ParseOnly(message, field, path);
}

void ClearRepeated(Message* message, const FieldDescriptor& field, const std::string& path,
                   ConfigPlaces* places) {
  message->GetReflection()->ClearField(message, &field);
  places->erase(path);
  const std::string inside = path + "[";
  auto it = places->lower_bound(inside);
  while (it != places->end() && it->first.compare(0, inside.size(), inside) == 0) {
    it = places->erase(it);
  }
}

}  // namespace sepia::trainer
