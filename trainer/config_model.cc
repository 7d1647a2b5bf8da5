// The model part of a config: architecture from the preset or from init_from, activation by the
// rules of `numerics`, separators through the tokenizer.
#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include "base/error.h"
#include "base/file.h"
#include "trainer/config_draft.h"
#include "trainer/config_source.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;
using Kind = ConfigOrigin::Kind;

// Fields that the weights of init_from decide: what is given beside them must agree.
constexpr const char* kArchitecture[] = {
    "vocab_size",        "hidden_size",       "num_layers",     "num_heads",
    "intermediate_size", "max_positions",     "rotary_pct",     "rotary_base",
    "layer_norm_eps",    "parallel_residual", "tie_embeddings",
};

std::string Print(const config::ModelConfig& model, const FieldDescriptor* field) {
  std::string text;
  TextFormat::PrintFieldValueToString(model, field, -1, &text);
  return text;
}

void CheckAgreement(const config::ModelConfig& source, const config::ModelConfig& wanted,
                    ConfigDraft* draft) {
  for (const char* name : kArchitecture) {
    const FieldDescriptor* field = config::ModelConfig::descriptor()->FindFieldByName(name);
    const Reflection* r = wanted.GetReflection();
    if (!r->HasField(wanted, field) || !r->HasField(source, field)) continue;
    const std::string theirs = Print(source, field);
    const std::string ours = Print(wanted, field);
    if (theirs == ours) continue;
    const std::string path = std::string("model.") + name;
    draft->Fault(draft->Given(path) ? path : "model.preset",
                 fmt::format("{} {} disagrees with {} in {}; leave it out or start from other "
                             "weights",
                             name, ours, theirs, draft->proto->init_from().path()));
  }
}

// The model of init_from, or an empty message.
config::ModelConfig ReadSource(ConfigDraft* draft) {
  config::ModelConfig source;
  const std::string& path = draft->proto->init_from().path();
  if (path.empty() || draft->unreadable) return source;
  if (draft->options.allow_missing_files && draft->proto->model().has_preset() &&
      !FileExists(path)) {
    draft->warnings.push_back("init_from.path: " + path +
                              " is not there yet, so that it could not be compared with the model");
    return source;
  }
  try {
    ReadModelSourceConfig(path, &source);
  } catch (const Error& error) {
    draft->Fault("init_from.path", error.what(), error.code());
    source.Clear();
  }
  return source;
}

// What is given on top of what the source says; a given list replaces the source's.
config::ModelConfig Merge(const config::ModelConfig& source, const config::ModelConfig& given) {
  config::ModelConfig merged = source;
  config::AttentionConfig* attention = merged.mutable_attention();
  const config::AttentionConfig& wanted = given.attention();
  if (wanted.has_kind()) attention->Clear();  // another rule: nothing of the old one remains
  if (wanted.full_layers_size() > 0) attention->clear_full_layers();
  if (wanted.has_window() || wanted.window_per_layer_size() > 0)
    attention->clear_window_per_layer();
  if (wanted.has_num_initial() || wanted.num_initial_per_layer_size() > 0) {
    attention->clear_num_initial_per_layer();
  }
  if (wanted.separator_ids_size() + wanted.separator_text_size() > 0) {
    attention->clear_separator_ids();
  }
  merged.MergeFrom(given);
  return merged;
}

void ResolveActivation(const config::ModelConfig& source, config::ModelConfig* merged,
                       ConfigDraft* draft) {
  if (draft->Given("model.activation")) return;
  const config::Activation of_numerics =
      draft->proto->numerics() == config::HF ? config::ERF_GELU : config::TANH_GELU;
  if (!draft->Given("numerics") && source.has_activation()) {
    draft->Derive("model.activation", Kind::kInitFrom, "init_from");
    return;
  }
  if (source.has_activation() && source.activation() != of_numerics) {
    draft->warnings.push_back(fmt::format(
        "numerics {} computes {}, but the model in {} was published with {}; numerics wins",
        config::Numerics_Name(draft->proto->numerics()), config::Activation_Name(of_numerics),
        draft->proto->init_from().path(), config::Activation_Name(source.activation())));
  }
  merged->set_activation(of_numerics);
  draft->Derive("model.activation", Kind::kDerived, "numerics");
}

void ResolveSeparators(config::ModelConfig* merged, ConfigDraft* draft) {
  config::AttentionConfig* attention = merged->mutable_attention();
  const std::string& tokenizer = draft->proto->data().tokenizer();
  if (attention->separator_text_size() == 0) return;
  const std::string path = "model.attention.separator_text";
  if (attention->separator_ids_size() > 0) {
    draft->Fault(path, "stands beside separator_ids; give one of them");
    return;
  }
  // With an answer in any case, so that the model does not complain as well.
  const auto give_up = [&](const std::string& message, ExitCode code = ExitCode::kUsage) {
    draft->Fault(path, message, code);
    attention->add_separator_ids(0);
  };
  if (tokenizer.empty()) {
    return give_up(
        "needs a tokenizer to turn it into ids; set data.tokenizer, or give "
        "separator_ids");
  }
  if (draft->options.allow_missing_files && !FileExists(tokenizer)) {
    draft->warnings.push_back(path + ": the token ids stay unknown until " + tokenizer +
                              " is there");
    for (int32_t id = 0; id < attention->separator_text_size(); ++id) {
      attention->add_separator_ids(id);
    }
    return;
  }
  try {
    const std::vector<std::string> texts(attention->separator_text().begin(),
                                         attention->separator_text().end());
    for (const int32_t id : SeparatorIds(tokenizer, texts)) attention->add_separator_ids(id);
    draft->Derive("model.attention.separator_ids", Kind::kDerived, "separator_text");
  } catch (const Error& error) {
    give_up(error.what(), error.code());
  }
}

// What a resolved model leaves out because its attention does not use it (a window beside FULL)
// stays as it was given.
void KeepUnused(const config::AttentionConfig& given, config::AttentionConfig* resolved) {
  const Reflection* r = given.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  r->ListFields(given, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_INT32 || field->is_repeated()) continue;
    if (!r->HasField(*resolved, field)) r->SetInt32(resolved, field, r->GetInt32(given, field));
  }
}

// Gives every field its origin when neither the text nor a rule set it.
void RecordOrigins(const config::ModelConfig& source, const config::ModelConfig& resolved,
                   ConfigDraft* draft) {
  const bool from_source = !draft->proto->model().has_preset() && source.has_vocab_size();
  const std::string where = from_source ? "init_from " + draft->proto->init_from().path()
                                        : "preset " + draft->proto->model().preset();
  if (!from_source && !draft->proto->model().has_preset()) return;
  const Kind kind = from_source ? Kind::kInitFrom : Kind::kPreset;
  const Reflection* r = resolved.GetReflection();
  for (int i = 0; i < resolved.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = resolved.GetDescriptor()->field(i);
    const std::string path = "model." + field->name();
    const bool plain = field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE;
    if (plain && field->name() != "preset" && r->HasField(resolved, field) && !draft->Given(path) &&
        draft->derived.count(path) == 0) {
      draft->Derive(path, kind, where);
    }
  }
}

// "model.num_layers: 6 (pythia-160m: 12)" for every field given beside a preset that differs.
void RecordDeviations(const config::ModelConfig& resolved, ConfigDraft* draft) {
  const std::string& preset = draft->proto->model().preset();
  if (preset.empty()) return;
  config::ModelConfig bare;
  bare.set_preset(preset);
  std::vector<std::string> ignored;
  const model::ModelConfig published = model::ResolveModelConfig(bare, &ignored);
  if (!ignored.empty()) return;
  model::ModelConfigToProto(published, &bare);
  for (const char* name : kArchitecture) {
    const FieldDescriptor* field = config::ModelConfig::descriptor()->FindFieldByName(name);
    const std::string ours = Print(resolved, field);
    const std::string theirs = Print(bare, field);
    if (ours != theirs) {
      draft->deviations.push_back(fmt::format("model.{}: {} ({}: {})", name, ours, preset, theirs));
    }
  }
}

void AddModelFaults(const std::vector<std::string>& faults, ConfigDraft* draft) {
  for (const std::string& fault : faults) {
    const size_t colon = fault.find(": ");
    const std::string path = fault.substr(0, colon);
    const bool required = fault.compare(colon + 2, 8, "required") == 0;
    if (required && draft->unreadable) continue;
    draft->faults.AddAt(draft->places, path, fault);
  }
}

}  // namespace

void ResolveModel(ConfigDraft* draft) {
  const config::ModelConfig given = draft->proto->model();
  const bool has_preset = given.has_preset();
  const size_t faults_before = draft->faults.size();
  const config::ModelConfig source = ReadSource(draft);
  const bool source_failed = draft->faults.size() > faults_before;

  config::ModelConfig merged = has_preset ? given : Merge(source, given);
  ResolveActivation(source, &merged, draft);
  ResolveSeparators(&merged, draft);
  merged.mutable_attention()->clear_separator_text();

  std::vector<std::string> faults;
  draft->model = model::ResolveModelConfig(merged, &faults);
  if (!source_failed) AddModelFaults(faults, draft);
  config::ModelConfig resolved;
  model::ModelConfigToProto(draft->model, &resolved);
  KeepUnused(merged.attention(), resolved.mutable_attention());
  CheckAgreement(source, has_preset ? resolved : given, draft);
  if (has_preset) resolved.set_preset(given.preset());
  RecordOrigins(source, resolved, draft);
  if (faults.empty()) RecordDeviations(resolved, draft);
  *draft->proto->mutable_model() = resolved;
}

}  // namespace sepia::trainer
