// Values that follow from others, then the defaults of the .proto files.
#include <algorithm>
#include <string>

#include <fmt/core.h>
#include <google/protobuf/descriptor.h>

#include "trainer/config_draft.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Kind = ConfigOrigin::Kind;

// Length of every Pythia run (EleutherAI/pythia models/*/*.yml: train-iters).
constexpr int64_t kPythiaSteps = 143000;

constexpr int64_t kLargestNumpySeed = 4294967295;

bool IsPreset(const std::string& name) {
  const std::vector<std::string> names = model::PresetNames();
  return std::find(names.begin(), names.end(), name) != names.end();
}

void ResolveOptimizer(ConfigDraft* draft) {
  config::OptimizerConfig* optimizer = draft->proto->mutable_optimizer();
  const std::string& preset = draft->proto->model().preset();
  if (!draft->Given("optimizer.lr") && IsPreset(preset)) {
    const model::PresetDefaults published = model::PresetOptimizer(preset);
    optimizer->set_lr(published.lr);
    draft->Derive("optimizer.lr", Kind::kPreset, "preset " + preset);
    if (!optimizer->has_min_lr()) {
      optimizer->set_min_lr(published.min_lr);
      draft->Derive("optimizer.min_lr", Kind::kPreset, "preset " + preset);
    }
  }
  if (optimizer->has_lr() && !draft->Given("optimizer.min_lr") && !optimizer->has_min_lr()) {
    optimizer->set_min_lr(optimizer->lr() / 10);
    draft->Derive("optimizer.min_lr", Kind::kDerived, "optimizer.lr / 10");
  }
  if (draft->options.for_training && !draft->Given("optimizer.lr") && !optimizer->has_lr()) {
    draft->Missing("optimizer.lr", "set the peak learning rate, or name a model.preset");
  }
}

void ResolveSchedule(ConfigDraft* draft) {
  config::ScheduleConfig* schedule = draft->proto->mutable_schedule();
  const std::string& preset = draft->proto->model().preset();
  if (!draft->Given("schedule.total_steps")) {
    if (IsPreset(preset)) {
      schedule->set_total_steps(kPythiaSteps);
      draft->Derive("schedule.total_steps", Kind::kPreset, "preset " + preset);
    } else if (draft->options.for_training) {
      draft->Missing("schedule.total_steps", "set the number of optimizer steps");
    }
  }
  if (!schedule->has_total_steps()) return;
  if (!draft->Given("schedule.decay_steps")) {
    schedule->set_decay_steps(schedule->total_steps());
    draft->Derive("schedule.decay_steps", Kind::kDerived, "schedule.total_steps");
  }
  const auto decay_steps = static_cast<double>(schedule->decay_steps());
  if (!draft->Given("schedule.warmup_steps")) {
    schedule->set_warmup_steps(schedule->warmup_fraction() * decay_steps);
    draft->Derive("schedule.warmup_steps", Kind::kDerived,
                  "schedule.warmup_fraction x schedule.decay_steps");
  } else if (!draft->Given("schedule.warmup_fraction") && decay_steps > 0) {
    schedule->set_warmup_fraction(schedule->warmup_steps() / decay_steps);
    draft->Derive("schedule.warmup_fraction", Kind::kDerived,
                  "schedule.warmup_steps / schedule.decay_steps");
  }
  if (!draft->Given("schedule.wsd_decay_steps")) {
    schedule->set_wsd_decay_steps(schedule->decay_steps() / 10);
    draft->Derive("schedule.wsd_decay_steps", Kind::kDerived, "schedule.decay_steps / 10");
  }
}

void ResolveData(ConfigDraft* draft) {
  config::DataConfig* data = draft->proto->mutable_data();
  if (!draft->Given("data.seed")) {
    if (draft->proto->seed() > kLargestNumpySeed) {
      draft->Fault("seed", "the data order takes seeds up to 4294967295; set data.seed as well");
    }
    data->set_seed(draft->proto->seed());
    draft->Derive("data.seed", Kind::kDerived, "seed");
  }
  if (draft->options.for_training && data->source_size() == 0 && data->train_size() == 0 &&
      !draft->Given("data.source") && !draft->Given("data.train")) {
    draft->Missing("data.train", "name a dataset: data { train { prefix: \"...\" } }");
  }
}

void ResolveDirectories(ConfigDraft* draft) {
  config::TrainConfig* proto = draft->proto.get();
  if (!draft->Given("run_dir")) {
    if (draft->options.for_training) {
      draft->Missing("run_dir", "name the directory of the run, e.g. run_dir: \"runs/first\"");
    }
    return;
  }
  if (draft->Given("checkpoint.dir")) return;
  proto->mutable_checkpoint()->set_dir(proto->run_dir() + "/checkpoints");
  draft->Derive("checkpoint.dir", Kind::kDerived, "run_dir");
}

// Sets every unset field that has a default in the .proto, in `message` and below.
void FillDefaults(Message* message) {
  const Reflection* r = message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field->is_repeated()) {
        FillDefaults(r->MutableMessage(message, field));
        continue;
      }
      for (int k = 0; k < r->FieldSize(*message, field); ++k) {
        FillDefaults(r->MutableRepeatedMessage(message, field, k));
      }
      continue;
    }
    if (field->is_repeated() || !field->has_default_value() || r->HasField(*message, field)) {
      continue;
    }
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        r->SetInt32(message, field, field->default_value_int32());
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        r->SetInt64(message, field, field->default_value_int64());
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        r->SetDouble(message, field, field->default_value_double());
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        r->SetBool(message, field, field->default_value_bool());
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        r->SetEnum(message, field, field->default_value_enum());
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        r->SetString(message, field, field->default_value_string());
        break;
      default: break;
    }
  }
}

}  // namespace

void ResolveRun(ConfigDraft* draft) {
  ResolveOptimizer(draft);
  ResolveSchedule(draft);
  ResolveData(draft);
  ResolveDirectories(draft);
  FillDefaults(draft->proto.get());
  if (draft->proto->data().source_size() == 0 && !draft->Given("data.split")) {
    draft->proto->mutable_data()->clear_split();  // means nothing without `source`
  }
}

}  // namespace sepia::trainer
