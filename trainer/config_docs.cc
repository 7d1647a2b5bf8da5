#include "trainer/config_docs.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include "base/check.h"

namespace sepia::embedded {
extern const unsigned char kConfigDescriptors[];
extern const std::size_t kConfigDescriptorsSize;
}  // namespace sepia::embedded

namespace sepia::trainer {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::SourceLocation;

// The compiled-in descriptors carry no comments; this pool, made from protoc's descriptor set,
// does.
class CommentedDescriptors {
 public:
  CommentedDescriptors() {
    FileDescriptorSet files;
    CHECK(files.ParseFromArray(embedded::kConfigDescriptors,
                               static_cast<int>(embedded::kConfigDescriptorsSize)));
    for (const FileDescriptorProto& file : files.file()) CHECK(pool_.BuildFile(file) != nullptr);
    root_ = pool_.FindMessageTypeByName("sepia.config.TrainConfig");
    CHECK(root_ != nullptr);
  }
  const Descriptor& root() const { return *root_; }

 private:
  DescriptorPool pool_;
  const Descriptor* root_;
};

// Comment lines joined to one paragraph.
std::string Paragraph(const std::string& comment) {
  std::istringstream words(comment);
  std::string paragraph;
  for (std::string word; words >> word;) {
    if (!paragraph.empty()) paragraph += ' ';
    paragraph += word;
  }
  return paragraph;
}

template <typename AnyDescriptor>
std::string Comment(const AnyDescriptor& descriptor) {
  SourceLocation location;
  if (!descriptor.GetSourceLocation(&location)) return "";
  return Paragraph(location.leading_comments.empty() ? location.trailing_comments
                                                     : location.leading_comments);
}

std::string TypeName(const FieldDescriptor& field) {
  std::string name;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE: name = "message"; break;
    case FieldDescriptor::CPPTYPE_STRING: name = "text"; break;
    case FieldDescriptor::CPPTYPE_DOUBLE: name = "number"; break;
    case FieldDescriptor::CPPTYPE_BOOL: name = "true or false"; break;
    case FieldDescriptor::CPPTYPE_ENUM: name = field.enum_type()->name(); break;
    default: name = "whole number"; break;
  }
  return field.is_repeated() ? "list of " + name : name;
}

std::string DefaultValue(const FieldDescriptor& field) {
  if (!field.has_default_value()) return "";
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: return fmt::format("{}", field.default_value_int32());
    case FieldDescriptor::CPPTYPE_INT64: return fmt::format("{}", field.default_value_int64());
    case FieldDescriptor::CPPTYPE_DOUBLE: return fmt::format("{}", field.default_value_double());
    case FieldDescriptor::CPPTYPE_BOOL: return field.default_value_bool() ? "true" : "false";
    case FieldDescriptor::CPPTYPE_ENUM: return field.default_value_enum()->name();
    case FieldDescriptor::CPPTYPE_STRING:
      return fmt::format("\"{}\"", field.default_value_string());
    default: return "";
  }
}

void AppendDocs(const Descriptor& message, const std::string& path, std::vector<FieldDoc>* docs) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const std::string field_path = path.empty() ? field.name() : path + "." + field.name();
    docs->push_back({field_path, TypeName(field), DefaultValue(field), Comment(field)});
    if (field.message_type() != nullptr) AppendDocs(*field.message_type(), field_path, docs);
  }
}

// Greedy line breaking.
std::string Wrap(const std::string& paragraph, const std::string& indent, size_t width) {
  std::istringstream words(paragraph);
  std::string text;
  std::string line = indent;
  for (std::string word; words >> word;) {
    if (line.size() + 1 + word.size() > width && line.size() > indent.size()) {
      text += line + '\n';
      line = indent;
    }
    if (line.size() > indent.size()) line += ' ';
    line += word;
  }
  return line.size() > indent.size() ? text + line + '\n' : text;
}

// "data.train[0].prefix" -> "data.train.prefix"
std::string WithoutIndexes(const std::string& path) {
  std::string plain;
  bool inside = false;
  for (const char c : path) {
    if (c == '[') inside = true;
    if (!inside) plain += c;
    if (c == ']') inside = false;
  }
  return plain;
}

std::string OriginText(const ConfigOrigin& origin) {
  switch (origin.kind) {
    case ConfigOrigin::Kind::kDefault: return "default";
    case ConfigOrigin::Kind::kDerived: return "from " + origin.where;
    default: return origin.where;
  }
}

// Pipes would end a table cell.
std::string Cell(const std::string& text) {
  std::string cell;
  for (const char c : text) cell += c == '|' ? std::string("\\|") : std::string(1, c);
  return cell;
}

std::string Code(const std::string& text) {
  return text.empty() ? "" : fmt::format("`{}`", Cell(text));
}

void AppendEnum(const EnumDescriptor& values, std::string* page) {
  *page += fmt::format("\n{}:\n\n", Code(values.name()));
  for (int i = 0; i < values.value_count(); ++i) {
    const std::string comment = Comment(*values.value(i));
    *page += fmt::format("- {}{}{}\n", Code(values.value(i)->name()), comment.empty() ? "" : ": ",
                         comment);
  }
}

void AppendSection(const Descriptor& message, const std::string& path, const std::string& comment,
                   std::vector<const Descriptor*>* shown, std::string* page) {
  *page += path.empty() ? "\n## Top level\n" : fmt::format("\n## `{}`\n", path);
  if (!comment.empty()) *page += "\n" + comment + "\n";
  if (std::find(shown->begin(), shown->end(), &message) != shown->end()) {
    *page += fmt::format("\nThe fields of `{}`, as above.\n", message.name());
    return;
  }
  shown->push_back(&message);
  *page += "\n| field | type | default | meaning |\n|---|---|---|---|\n";
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    *page += fmt::format("| `{}` | {} | {} | {} |\n", field.name(), Cell(TypeName(field)),
                         Code(DefaultValue(field)), Cell(Comment(field)));
  }
  for (int i = 0; i < message.field_count(); ++i) {
    const EnumDescriptor* values = message.field(i)->enum_type();
    bool first = values != nullptr;
    for (int k = 0; k < i; ++k) first = first && message.field(k)->enum_type() != values;
    if (first) AppendEnum(*values, page);
  }
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    if (field.message_type() == nullptr) continue;
    AppendSection(*field.message_type(), path.empty() ? field.name() : path + "." + field.name(),
                  Comment(field), shown, page);
  }
}

}  // namespace

std::vector<FieldDoc> ConfigFieldDocs() {
  std::vector<FieldDoc> docs;
  AppendDocs(CommentedDescriptors().root(), "", &docs);
  return docs;
}

std::string ExplainConfig(const LoadedConfig& config, bool comments) {
  std::map<std::string, std::string> comment_of;
  for (FieldDoc& doc : ConfigFieldDocs()) comment_of[doc.path] = std::move(doc.comment);
  std::string text;
  for (const ConfigValue& value : config.values) {
    const bool unset = value.value.empty();
    const std::string assignment =
        fmt::format("{}: {}", value.path, unset ? "(not set)" : value.value);
    text += unset && value.origin.kind == ConfigOrigin::Kind::kDefault
                ? assignment + "\n"
                : fmt::format("{:<56} # {}\n", assignment, OriginText(value.origin));
    if (comments) text += Wrap(comment_of[WithoutIndexes(value.path)], "    ", 100);
  }
  return text;
}

std::string ConfigReference() {
  std::string page =
      "# Config reference\n\n"
      "A run is described by one file in proto2 text format: `field: value` and "
      "`message { ... }`, `#` starts\na comment, lists are `[a, b]`. The same grammar serves "
      "`--set path=value`, e.g. `--set batch.micro=4`\nor `--set 'optimizer { lr: 6e-4 }'`; a list "
      "is replaced as a whole. `sepia explain-config CONFIG` shows\nevery value of a run with its "
      "origin, `sepia check CONFIG` finds every fault.\n\n"
      "This page is `sepia explain-config --markdown`, made from the comments in the .proto files; "
      "do not edit\nit by hand.\n";
  std::vector<const Descriptor*> shown;
  const CommentedDescriptors descriptors;
  AppendSection(descriptors.root(), "", "", &shown, &page);
  return page;
}

}  // namespace sepia::trainer
