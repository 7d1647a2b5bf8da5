// Ranges of single values and contradictions between them, on the complete config.
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include "base/error.h"
#include "trainer/config_draft.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMostSteps = 1e12;

enum class Low : uint8_t { kInclusive, kExclusive };

struct Range {
  const char* path;
  double least;
  double most;  // inclusive
  Low low = Low::kInclusive;
};

// Fields of model are checked by model::ResolveModelConfig.
constexpr Range kRanges[] = {
    {"data.blend_by_num_docs_alpha", 0, 1},
    {"data.sequence_length", 1, 1 << 24},
    {"data.seed", 0, 4294967295.0},  // numpy's seeds
    {"data.eod_id", 0, kInfinity},
    {"data.prefetch", 0, 4096},
    {"batch.global", 1, 1 << 24},
    {"batch.micro", 1, 1 << 20},
    {"optimizer.lr", 0, kInfinity, Low::kExclusive},
    {"optimizer.min_lr", 0, kInfinity},
    {"optimizer.beta1", 0, 0.9999999},
    {"optimizer.beta2", 0, 0.9999999},
    {"optimizer.eps", 0, kInfinity, Low::kExclusive},
    {"optimizer.weight_decay", 0, kInfinity},
    {"optimizer.clip", 0, kInfinity},
    {"schedule.warmup_steps", 0, kMostSteps},
    {"schedule.warmup_fraction", 0, 1},
    {"schedule.decay_steps", 1, kMostSteps},
    {"schedule.total_steps", 1, kMostSteps},
    {"schedule.wsd_decay_steps", 0, kMostSteps},
    {"seed", 0, kInfinity},
    {"parallel.tensor", 1, 4096},
    {"parallel.zero_stage", 0, 2},
    {"checkpoint.every_steps", 0, kMostSteps},
    {"checkpoint.keep_last", 0, kInfinity},
    {"checkpoint.keep_every", 0, kMostSteps},
    {"checkpoint.max_failures", 1, kInfinity},
    {"init_from.first_step", 0, kMostSteps},
    {"init_from.warmup_steps", 0, kMostSteps},
    {"logging.every_steps", 1, kMostSteps},
    {"logging.peak_gflops", 0, kInfinity},
    {"eval.every_steps", 0, kMostSteps},
    {"eval.steps", 1, kMostSteps},
    {"samples.every_steps", 0, kMostSteps},
    {"samples.max_tokens", 1, 1 << 24},
    {"samples.temperature", 0, kInfinity},
    {"samples.top_k", 0, kInfinity},
    {"samples.top_p", 0, 1, Low::kExclusive},
    {"safety.max_skipped_in_a_row", 1, kInfinity},
    {"safety.zscore_window", 2, 1 << 20},
    {"safety.skip_loss_zscore", 0, kInfinity},
    {"safety.skip_grad_norm_zscore", 0, kInfinity},
    {"safety.hang_seconds", 0, kInfinity},
    {"safety.replica_check_steps", 0, kMostSteps},
    {"loss_scale.initial_scale_power", 0, 31},
    {"loss_scale.window", 1, kInfinity},
    {"loss_scale.hysteresis", 1, kInfinity},
    {"loss_scale.min_scale", 0, kInfinity, Low::kExclusive},
    {"loss_scale.static_scale", 0, kInfinity},
    {"threads", 0, 4096},
};

// The number at `path`; false when it is not set.
bool GetNumber(const Message& root, const std::string& path, double* value) {
  const Message* message = &root;
  size_t begin = 0;
  while (true) {
    const size_t dot = path.find('.', begin);
    const std::string name = path.substr(begin, dot - begin);
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
    const Reflection* r = message->GetReflection();
    if (!r->HasField(*message, field)) return false;
    if (dot != std::string::npos) {
      message = &r->GetMessage(*message, field);
      begin = dot + 1;
      continue;
    }
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32: *value = r->GetInt32(*message, field); return true;
      case FieldDescriptor::CPPTYPE_INT64:
        *value = static_cast<double>(r->GetInt64(*message, field));
        return true;
      default: *value = r->GetDouble(*message, field); return true;
    }
  }
}

bool InRange(const Range& range, double value) {
  const bool low_ok = range.low == Low::kExclusive ? value > range.least : value >= range.least;
  return low_ok && value <= range.most;
}

std::string DescribeRange(const Range& range) {
  const bool exclusive = range.low == Low::kExclusive;
  if (range.most == kInfinity) {
    return fmt::format("{} {}", exclusive ? "above" : "at least", range.least);
  }
  return fmt::format("{}{} to {}", exclusive ? "above " : "from ", range.least, range.most);
}

void CheckRanges(ConfigDraft* draft) {
  for (const Range& range : kRanges) {
    double value = 0;
    if (draft->derived.count(range.path) > 0) continue;  // its sources are checked
    if (!GetNumber(*draft->proto, range.path, &value) || InRange(range, value)) continue;
    draft->Fault(range.path,
                 fmt::format("{} is out of range; it must be {}", value, DescribeRange(range)));
  }
}

void CheckSources(const google::protobuf::RepeatedPtrField<config::DataSource>& sources,
                  const std::string& path, ConfigDraft* draft) {
  for (int i = 0; i < sources.size(); ++i) {
    const std::string element = fmt::format("{}[{}]", path, i);
    if (sources[i].prefix().empty() && !draft->unreadable) {
      draft->Fault(element + ".prefix", "is missing; name the .bin/.idx pair without extension");
    }
    if (!(sources[i].weight() > 0)) {
      draft->Fault(
          element + ".weight",
          fmt::format("{} must be above 0; remove the block to leave it out", sources[i].weight()));
    }
  }
}

// "969,30,1": one to three shares, not negative, not all zero.
bool IsSplit(const std::string& text) {
  double sum = 0;
  int count = 0;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const std::string share = text.substr(begin, comma - begin);
    char* end = nullptr;
    const double value = std::strtod(share.c_str(), &end);
    while (*end == ' ') ++end;
    if (share.empty() || *end != '\0' || !std::isfinite(value) || value < 0) return false;
    sum += value;
    ++count;
    begin = comma + 1;
  }
  return count <= 3 && sum > 0;
}

void CheckData(ConfigDraft* draft) {
  const config::DataConfig& data = draft->proto->data();
  CheckSources(data.source(), "data.source", draft);
  CheckSources(data.train(), "data.train", draft);
  CheckSources(data.valid(), "data.valid", draft);
  CheckSources(data.test(), "data.test", draft);
  const bool separate = data.train_size() + data.valid_size() + data.test_size() > 0;
  if (data.source_size() > 0 && separate) {
    draft->Fault("data.source",
                 "cannot stand beside train, valid or test; use source with split, or train, valid "
                 "and test");
  }
  if (draft->Given("data.split")) {
    if (data.source_size() == 0 && separate) {
      draft->Fault("data.split", "only cuts data.source; remove it, or use source");
    } else if (!IsSplit(data.split())) {
      draft->Fault("data.split",
                   fmt::format("\"{}\" is not three shares such as \"969,30,1\"", data.split()));
    }
  }
  if (!draft->options.for_training) return;
  if (data.sequence_length() > draft->model.max_positions && draft->model.max_positions > 0) {
    draft->Fault("data.sequence_length",
                 fmt::format("{} is longer than model.max_positions {}; shorten the samples or "
                             "raise max_positions",
                             data.sequence_length(), draft->model.max_positions));
  }
  if (data.eod_id() >= draft->model.vocab_size && draft->model.vocab_size > 1) {
    draft->Fault("data.eod_id", fmt::format("{} is not in the vocabulary of {}", data.eod_id(),
                                            draft->model.vocab_size));
  }
  if (separate && data.valid_size() == 0 && draft->proto->eval().every_steps() > 0) {
    draft->warnings.push_back("no data.valid: there will be no validation loss");
  }
}

void CheckBatch(ConfigDraft* draft) {
  const int64_t tensor = draft->proto->parallel().tensor();
  const int64_t global = draft->proto->batch().global();
  const int64_t micro = draft->proto->batch().micro();
  if (tensor < 1 || global < 1 || micro < 1) return;
  const int64_t ranks = draft->options.ranks > 0 ? draft->options.ranks : tensor;
  if (ranks % tensor != 0) {
    draft->Fault("parallel.tensor", fmt::format("{} does not divide the {} ranks", tensor, ranks));
    return;
  }
  const int64_t data_ranks = ranks / tensor;
  if (!draft->options.for_training || global % (micro * data_ranks) == 0) return;
  const int64_t step = micro * data_ranks;
  const int64_t below = global / step * step;
  const std::string nearest =
      below > 0 ? fmt::format("{} or {}", below, below + step) : fmt::format("{}", step);
  draft->Fault("batch.global",
               fmt::format("{} is not a multiple of micro {} x {} data rank{}; take {}", global,
                           micro, data_ranks, data_ranks == 1 ? "" : "s", nearest));
}

// The divisors of `number` around `value`.
std::string NearestDivisors(int64_t number, int64_t value) {
  int64_t below = std::min(value, number);
  while (below > 1 && number % below != 0) --below;
  int64_t above = value;
  while (above < number && number % above != 0) ++above;
  return above <= number && number % above == 0 && above != below
             ? fmt::format("{} or {}", below, above)
             : fmt::format("{}", below);
}

void CheckLayout(ConfigDraft* draft) {
  const config::ParallelConfig& parallel = draft->proto->parallel();
  if (parallel.grad_reduce_dtype() != config::FP32) {
    draft->Fault("parallel.grad_reduce_dtype", "this version adds gradients in FP32 only");
  }
  const int64_t tensor = parallel.tensor();
  if (tensor <= 1 || draft->model.num_heads < 1) return;
  const model::ModelConfig& model = draft->model;
  const std::pair<std::string, int64_t> cut[] = {
      {fmt::format("{} heads", model.num_heads), model.num_heads},
      {fmt::format("{} inner features of the MLP", model.intermediate_size),
       model.intermediate_size},
      {fmt::format("{} tokens of the vocabulary", model.vocab_size), model.vocab_size}};
  const int64_t common =
      std::gcd(std::gcd(model.num_heads, model.intermediate_size), model.vocab_size);
  for (const auto& [what, size] : cut) {
    if (size % tensor == 0) continue;
    draft->Fault("parallel.tensor", fmt::format("{} does not divide the {}; take {}", tensor, what,
                                                NearestDivisors(common, tensor)));
    return;
  }
}

// The step at which the schedule begins.
int64_t SchedulesStart(const config::InitFrom& init) {
  return init.fresh_schedule() ? init.first_step() : 0;
}

void CheckSchedule(ConfigDraft* draft) {
  const config::ScheduleConfig& schedule = draft->proto->schedule();
  const config::OptimizerConfig& optimizer = draft->proto->optimizer();
  if (optimizer.has_lr() && optimizer.min_lr() > optimizer.lr()) {
    draft->Fault("optimizer.min_lr",
                 fmt::format("{} is above optimizer.lr {}", optimizer.min_lr(), optimizer.lr()));
  }
  if (!schedule.has_decay_steps()) return;
  const auto decay_steps = static_cast<double>(schedule.decay_steps());
  if (schedule.kind() == config::ScheduleConfig::COSINE &&
      draft->proto->numerics() != config::PYTHIA_V1 &&
      schedule.total_steps() - SchedulesStart(draft->proto->init_from()) > schedule.decay_steps()) {
    draft->warnings.push_back(fmt::format(
        "schedule.total_steps {} is past decay_steps {}: GPT-NeoX's cosine rises again after it",
        schedule.total_steps(), schedule.decay_steps()));
  }
  if (schedule.warmup_steps() > decay_steps) {
    draft->Fault("schedule.warmup_steps",
                 fmt::format("{} is above decay_steps {}, which includes the warm-up",
                             schedule.warmup_steps(), schedule.decay_steps()));
  }
  const double implied = schedule.warmup_fraction() * decay_steps;
  if (draft->Given("schedule.warmup_steps") && draft->Given("schedule.warmup_fraction") &&
      std::abs(schedule.warmup_steps() - implied) > 1e-6 * decay_steps) {
    draft->Fault(
        "schedule.warmup_steps",
        fmt::format("{} contradicts warmup_fraction {} of {} steps; give one of them",
                    schedule.warmup_steps(), schedule.warmup_fraction(), schedule.decay_steps()));
  }
  if (schedule.kind() == config::ScheduleConfig::WARMUP_STABLE_DECAY &&
      schedule.warmup_steps() + static_cast<double>(schedule.wsd_decay_steps()) > decay_steps) {
    draft->Fault(
        "schedule.wsd_decay_steps",
        fmt::format("{} and {} steps of warm-up exceed decay_steps {}", schedule.wsd_decay_steps(),
                    schedule.warmup_steps(), schedule.decay_steps()));
  }
}

void CheckInitFrom(ConfigDraft* draft) {
  const config::InitFrom& init = draft->proto->init_from();
  for (const char* path : {"init_from.first_step", "init_from.warmup_steps"}) {
    double value = 0;
    if (!GetNumber(*draft->proto, path, &value) || value == 0) continue;
    if (init.weights_only() && !init.path().empty()) continue;
    draft->Fault(path, "goes with init_from.path and weights_only: true; leave it out");
  }
  if (init.fresh_schedule() && init.first_step() == 0) {
    draft->Fault("init_from.fresh_schedule", "goes with init_from.first_step; leave it out");
  }
  const int64_t total = draft->proto->schedule().total_steps();
  if (draft->options.for_training && total > 0 && init.first_step() >= total) {
    draft->Fault("init_from.first_step",
                 fmt::format("{} leaves nothing to do before schedule.total_steps {}",
                             init.first_step(), total));
  }
}

void CheckSamples(ConfigDraft* draft) {
  const config::SamplesConfig& samples = draft->proto->samples();
  if (samples.every_steps() <= 0) return;
  if (draft->proto->data().tokenizer().empty() && !draft->unreadable) {
    draft->Fault("samples.every_steps", "samples need a tokenizer; set data.tokenizer");
  }
}

void CheckKernels(ConfigDraft* draft) {
  if (draft->proto->kernels().cuda_graphs() && draft->proto->device() == config::CPU) {
    draft->Fault("kernels.cuda_graphs", "CUDA graphs are for device: CUDA; set false");
  }
  if (draft->proto->kernels().full_attention() != config::KernelsConfig::CUDNN) return;
  if (draft->proto->device() == config::CPU) {
    draft->Fault("kernels.full_attention", "cuDNN is for device: CUDA; set OWN");
  } else if (draft->proto->precision() == config::FP32) {
    draft->Fault("kernels.full_attention",
                 "cuDNN's attention takes no FP32; set OWN, or precision: BF16 or FP16");
  }
}

const char* ActivationName(config::Activation activation) {
  return activation == config::ERF_GELU ? "ERF_GELU" : "TANH_GELU";
}

// Where the run departs from what its `numerics` stands for.
void CheckNumerics(ConfigDraft* draft) {
  const config::TrainConfig& proto = *draft->proto;
  const std::string name = config::Numerics_Name(proto.numerics());
  const auto deviate = [&](const std::string& what, const std::string& instead) {
    draft->deviations.push_back(fmt::format("{} ({}: {})", what, name, instead));
  };
  const config::Activation expected =
      proto.numerics() == config::HF ? config::ERF_GELU : config::TANH_GELU;
  if (proto.model().activation() != expected) {
    deviate(fmt::format("model.activation: {}", ActivationName(proto.model().activation())),
            ActivationName(expected));
  }
  if (draft->options.for_training && proto.schedule().kind() != config::ScheduleConfig::COSINE) {
    deviate(fmt::format("schedule.kind: {}",
                        config::ScheduleConfig::Kind_Name(proto.schedule().kind())),
            "COSINE");
  }
  if (proto.numerics() == config::PYTHIA_V1) {
    if (proto.precision() != config::FP16) {
      deviate(fmt::format("precision: {}", config::Precision_Name(proto.precision())), "FP16");
    }
    if (!proto.rope_fp16_tables()) deviate("rope_fp16_tables: false", "true");
  } else if (proto.rope_fp16_tables()) {
    draft->Fault("rope_fp16_tables",
                 fmt::format("belongs to numerics PYTHIA_V1, not {}; remove one of them", name));
  }
  if (proto.precision() != config::FP16 && proto.loss_scale().static_scale() > 0) {
    draft->warnings.push_back("loss_scale only acts with precision: FP16");
  }
  if (proto.parallel().sequence() && proto.parallel().tensor() == 1) {
    draft->warnings.push_back("parallel.sequence does nothing with parallel.tensor: 1");
  }
}

}  // namespace

void CheckConfig(ConfigDraft* draft) {
  CheckRanges(draft);
  CheckData(draft);
  CheckBatch(draft);
  CheckLayout(draft);
  CheckSchedule(draft);
  CheckInitFrom(draft);
  CheckSamples(draft);
  CheckKernels(draft);
  CheckNumerics(draft);
}

}  // namespace sepia::trainer
