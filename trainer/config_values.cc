// Walks over every field of a config: the list behind explain-config, the resolved text, and the
// difference of two configs.
#include <map>
#include <string>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include "base/error.h"
#include "trainer/config_draft.h"
#include "trainer/config_parser.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

struct FlatValue {
  std::string path;
  std::string value;
};

std::string PrintElement(const Message& message, const FieldDescriptor* field, int index) {
  std::string text;
  TextFormat::PrintFieldValueToString(message, field, index, &text);
  return text;
}

std::string PrintValue(const Message& message, const FieldDescriptor* field) {
  const Reflection* r = message.GetReflection();
  if (!field->is_repeated()) {
    return r->HasField(message, field) ? PrintElement(message, field, -1) : "";
  }
  std::vector<std::string> elements;
  for (int k = 0; k < r->FieldSize(message, field); ++k) {
    elements.push_back(PrintElement(message, field, k));
  }
  return elements.empty() ? "" : fmt::format("[{}]", fmt::join(elements, ", "));
}

void Flatten(const Message& message, const std::string& path, std::vector<FlatValue>* values) {
  const Reflection* r = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    const std::string field_path = path.empty() ? field->name() : path + "." + field->name();
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      values->push_back({field_path, PrintValue(message, field)});
    } else if (!field->is_repeated()) {
      Flatten(r->GetMessage(message, field), field_path, values);
    } else {
      const int size = r->FieldSize(message, field);
      if (size == 0) values->push_back({field_path, ""});
      for (int k = 0; k < size; ++k) {
        Flatten(r->GetRepeatedMessage(message, field, k), fmt::format("{}[{}]", field_path, k),
                values);
      }
    }
  }
}

std::vector<FlatValue> Flatten(const config::TrainConfig& proto) {
  std::vector<FlatValue> values;
  Flatten(proto, "", &values);
  return values;
}

ConfigOrigin OriginOf(const ConfigDraft& draft, const std::string& path) {
  const auto derived = draft.derived.find(path);
  if (derived != draft.derived.end()) return derived->second;
  const auto place = draft.places.find(path);
  if (place == draft.places.end()) return {};
  ConfigPlace where = place->second;
  if (where.source == 0) return {ConfigOrigin::Kind::kFile, draft.sources.Describe(where)};
  where.line = 0;  // the whole override
  return {ConfigOrigin::Kind::kOverride, draft.sources.Describe(where)};
}

// Fields that a resumed run may change: where things go, how often, and what steers the optimizer
// from here on. A field that ends in a dot stands for a whole message.
constexpr std::string_view kHarmless[] = {
    "model.preset", "data.tokenizer", "data.cache_dir",    "data.prefetch", "batch.micro",
    "optimizer.",   "schedule.",      "parallel.",         "checkpoint.",   "init_from.",
    "logging.",     "eval.",          "samples.",          "safety.",       "run_dir",
    "recompute",    "threads",        "loss_scale.window", "device",        "kernels.",
};

// A dataset may move: its fingerprint tells whether it is the same.
constexpr std::string_view kPrefix = "].prefix";

bool IsHarmless(std::string_view path) {
  if (path.size() > kPrefix.size() && path.substr(path.size() - kPrefix.size()) == kPrefix) {
    return true;
  }
  for (const std::string_view entry : kHarmless) {
    if (entry.back() == '.' ? path.substr(0, entry.size()) == entry : path == entry) return true;
  }
  return false;
}

config::TrainConfig ParseResolved(const std::string& text, const std::string& name) {
  config::TrainConfig proto;
  ConfigSources sources(name);
  ConfigFaults faults(&sources);
  ConfigPlaces places;
  ParseConfigText(text, 0, &proto, &places, &faults);
  try {
    faults.ThrowIfAny();
  } catch (const Error& error) {
    throw UserError(ExitCode::kBadData, error.what());
  }
  return proto;
}

}  // namespace

std::vector<ConfigValue> ListValues(const ConfigDraft& draft) {
  std::vector<ConfigValue> values;
  for (FlatValue& flat : Flatten(*draft.proto)) {
    ConfigOrigin origin = OriginOf(draft, flat.path);
    values.push_back({std::move(flat.path), std::move(flat.value), std::move(origin)});
  }
  return values;
}

std::string ConfigToText(const config::TrainConfig& proto) {
  TextFormat::Printer printer;
  printer.SetUseShortRepeatedPrimitives(true);
  std::string text;
  printer.PrintToString(proto, &text);
  return text;
}

std::vector<ConfigDifference> DiffConfigs(const std::string& before, const std::string& after) {
  const std::vector<FlatValue> old_values = Flatten(ParseResolved(before, "stored config"));
  const std::vector<FlatValue> new_values = Flatten(ParseResolved(after, "new config"));
  std::map<std::string, std::string> old_by_path;
  for (const FlatValue& value : old_values) old_by_path[value.path] = value.value;

  std::vector<ConfigDifference> differences;
  const auto add = [&](const std::string& path, const std::string& a, const std::string& b) {
    using Effect = ConfigDifference::Effect;
    if (a == b) return;
    differences.push_back({path, a, b, IsHarmless(path) ? Effect::kHarmless : Effect::kRefuse});
  };
  for (const FlatValue& value : new_values) {
    const auto found = old_by_path.find(value.path);
    add(value.path, found == old_by_path.end() ? "" : found->second, value.value);
    if (found != old_by_path.end()) old_by_path.erase(found);
  }
  for (const auto& [path, value] : old_by_path) add(path, value, "");
  return differences;
}

}  // namespace sepia::trainer
