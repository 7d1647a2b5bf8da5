#include "tools/sepia/neox_train_config.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include <fmt/format.h>
#include <google/protobuf/text_format.h>

#include "base/error.h"
#include "base/integer.h"
#include "checkpoint/neox/neox_config.h"
#include "tools/sepia/neox_config_keys.h"
#include "trainer/train_config.pb.h"

namespace sepia::tools {
namespace {

using checkpoint::FindKey;
using checkpoint::JsonArray;
using checkpoint::JsonObject;
using checkpoint::JsonValue;

class Converter {
 public:
  Converter(const JsonObject& keys, const std::string& path, const NeoxConversionOptions& options)
      : keys_(keys), path_(path), options_(options) {}

  NeoxConversion Run() {
    used_.insert(kNeoxModelKeys.begin(), kNeoxModelKeys.end());
    Model();
    Data();
    Batch();
    Optimizer();
    Schedule();
    PrecisionSettings();
    Intervals();
    Ignore();
    RefuseRest();
    NeoxConversion result;
    google::protobuf::TextFormat::PrintToString(config_, &result.textproto);
    result.ignored = std::move(ignored_);
    return result;
  }

 private:
  void Refuse(std::string_view key, const std::string& reason) {
    refused_ += fmt::format("\n  {} {}", key, reason);
  }

  const JsonValue* Take(std::string_view key) {
    used_.insert(key);
    const JsonValue* value = FindKey(keys_, key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  static std::optional<double> AsNumber(const JsonValue* value) {
    if (value == nullptr) return std::nullopt;
    if (const auto* integer = value->As<int64_t>()) return static_cast<double>(*integer);
    if (const auto* number = value->As<double>()) return *number;
    return std::nullopt;
  }
  std::optional<double> Number(std::string_view key) { return CheckNumber(key, Take(key)); }
  std::optional<double> CheckNumber(std::string_view key, const JsonValue* value) {
    const auto number = AsNumber(value);
    if (value != nullptr && !number) Refuse(key, "is no number");
    return number;
  }
  std::optional<int64_t> Count(std::string_view key) {
    const JsonValue* value = Take(key);
    if (value == nullptr) return std::nullopt;
    const auto* integer = value->As<int64_t>();
    if (integer != nullptr && *integer >= 0 && *integer <= INT32_MAX) return *integer;
    Refuse(key, "is no count");
    return std::nullopt;
  }
  std::string Word(std::string_view key, const std::string& otherwise) {
    const JsonValue* value = Take(key);
    if (value == nullptr) return otherwise;
    const auto* word = value->As<std::string>();
    return word == nullptr ? "" : *word;
  }
  void MustBeZero(std::string_view key) {
    if (Number(key).value_or(0) != 0) Refuse(key, "is not 0: Sepia has no dropout");
  }

  void Model() {
    config::ModelConfig* model = config_.mutable_model();
    checkpoint::FillNeoxModelConfig(keys_, path_, model);
    const int64_t tensor = Count("model_parallel_size").value_or(1);
    const auto* stated = FindKey(keys_, "make_vocab_size_divisible_by");
    const int64_t multiple =
        std::max<int64_t>(1, static_cast<int64_t>(AsNumber(stated).value_or(128)) * tensor);
    model->set_vocab_size(static_cast<int32_t>(RoundUp(options_.tokenizer_size, multiple)));
    model->set_init(Init("init_method"));
    model->set_output_init(Init("output_layer_init_method"));
    config_.mutable_parallel()->set_tensor(static_cast<int32_t>(tensor));
    if (Count("pipe_parallel_size").value_or(1) > 1) {
      Refuse("pipe_parallel_size", "is above 1: Sepia has no pipeline stages");
    }
    MustBeZero("hidden_dropout");
    MustBeZero("attention_dropout");
  }

  config::InitMethod Init(std::string_view key) {
    const bool is_output = key != "init_method";
    const std::string name = Word(key, is_output ? "scaled_normal" : "normal");
    if (name == "small_init") return config::SMALL_INIT;
    if (name == "wang_init") return config::WANG_INIT;
    if (name == "normal") return config::NORMAL;
    if (name == "scaled_normal") return config::SCALED_NORMAL;
    Refuse(key, fmt::format("is '{}'", name));
    return config::SMALL_INIT;
  }

  template <typename AddSource>
  void Paths(std::string_view key, const AddSource& add) {
    const JsonValue* value = Take(key);
    const auto* list = value == nullptr ? nullptr : value->As<JsonArray>();
    if (value != nullptr && list == nullptr) Refuse(key, "is no list");
    for (const JsonValue& item : list == nullptr ? JsonArray() : *list) {
      const auto* prefix = item.As<std::string>();
      if (prefix == nullptr) {
        Refuse(key, "holds something else than paths");
      } else {
        add()->set_prefix(*prefix);
      }
    }
  }

  void Data() {
    config::DataConfig* data = config_.mutable_data();
    Paths("train_data_paths", [&] { return data->add_train(); });
    Paths("valid_data_paths", [&] { return data->add_valid(); });
    Paths("test_data_paths", [&] { return data->add_test(); });
    const std::string one = Word("data_path", "");
    if (!one.empty()) data->add_source()->set_prefix(one);
    const std::string split = Word("split", "");
    if (!split.empty()) data->set_split(split);
    const std::string tokenizer = Word("vocab_file", "");
    if (!tokenizer.empty()) data->set_tokenizer(tokenizer);
    data->set_order(config::DataConfig::NEOX_MAPS);
    data->set_sequence_length(config_.model().max_positions());
    if (const auto length = AsNumber(FindKey(keys_, "seq_length"))) {
      data->set_sequence_length(static_cast<int32_t>(*length));
    }
    if (const auto seed = AsNumber(FindKey(keys_, "seed"))) {
      config_.set_seed(static_cast<int64_t>(*seed));
    }
  }

  void Batch() {
    const auto micro = Count("train_micro_batch_size_per_gpu");
    const auto stated = Count("train_batch_size");
    if (micro) config_.mutable_batch()->set_micro(static_cast<int32_t>(*micro));
    if (stated) {
      config_.mutable_batch()->set_global(static_cast<int32_t>(*stated));
      return;
    }
    const JsonValue* steps = FindKey(keys_, "gradient_accumulation_steps");
    if (steps == nullptr) steps = FindKey(keys_, "gas");
    const int64_t ranks = options_.num_gpus / config_.parallel().tensor();
    if (!micro || ranks < 1) {
      Refuse("train_batch_size", "is missing: say on how many GPUs the run was made (--gpus)");
      return;
    }
    const double global = static_cast<double>(*micro * ranks) * AsNumber(steps).value_or(1);
    config_.mutable_batch()->set_global(static_cast<int32_t>(global));
  }

  void Optimizer() {
    config::OptimizerConfig* optimizer = config_.mutable_optimizer();
    const JsonValue* value = Take("optimizer");
    const auto* object = value == nullptr ? nullptr : value->As<JsonObject>();
    const JsonValue* type = object == nullptr ? nullptr : FindKey(*object, "type");
    const JsonValue* nested = object == nullptr ? nullptr : FindKey(*object, "params");
    const auto* params = nested == nullptr ? nullptr : nested->As<JsonObject>();
    const auto* name = type == nullptr ? nullptr : type->As<std::string>();
    if (params == nullptr || name == nullptr || (*name != "Adam" && *name != "adam")) {
      return Refuse("optimizer", "is not {type: Adam, params: {...}}");
    }
    for (const auto& [key, item] : *params) {
      if (key == "betas") {
        Betas(item, optimizer);
      } else if (key == "lr") {
        optimizer->set_lr(CheckNumber("optimizer.params.lr", &item).value_or(0));
      } else if (key == "eps") {
        optimizer->set_eps(CheckNumber("optimizer.params.eps", &item).value_or(0));
      } else {
        Refuse("optimizer.params." + key, "is unknown");
      }
    }
    if (const auto least = Number("min_lr")) optimizer->set_min_lr(*least);
    if (const auto decay = Number("weight_decay")) optimizer->set_weight_decay(*decay);
    if (const auto clip = Number("gradient_clipping")) optimizer->set_clip(*clip);
  }

  void Betas(const JsonValue& value, config::OptimizerConfig* optimizer) {
    const auto* list = value.As<JsonArray>();
    if (list == nullptr || list->size() != 2) return Refuse("betas", "is no pair");
    optimizer->set_beta1(CheckNumber("betas[0]", &(*list)[0]).value_or(0));
    optimizer->set_beta2(CheckNumber("betas[1]", &(*list)[1]).value_or(0));
  }

  void Schedule() {
    config::ScheduleConfig* schedule = config_.mutable_schedule();
    const std::string style = Word("lr_decay_style", "linear");
    if (style == "cosine") {
      schedule->set_kind(config::ScheduleConfig::COSINE);
    } else if (style == "linear") {
      schedule->set_kind(config::ScheduleConfig::LINEAR);
    } else if (style == "constant") {
      schedule->set_kind(config::ScheduleConfig::CONSTANT);
    } else {
      Refuse("lr_decay_style", fmt::format("is '{}'", style));
    }
    if (const auto steps = Count("train_iters")) schedule->set_total_steps(*steps);
    if (const auto steps = Count("lr_decay_iters")) schedule->set_decay_steps(*steps);
    schedule->set_warmup_fraction(Number("warmup").value_or(0.01));
  }

  void PrecisionSettings() {
    config_.set_precision(config::FP32);
    if (const auto* fp16 = Section("fp16")) {
      for (const auto& [key, value] : *fp16) Fp16Key(key, value);
    }
    const auto* bf16 = Section("bf16");
    const std::string named = Word("precision", "");
    if ((bf16 != nullptr && IsTrue(FindKey(*bf16, "enabled"))) || named == "bfloat16") {
      config_.set_precision(config::BF16);
    } else if (named == "fp16") {
      config_.set_precision(config::FP16);
    }
    const auto* zero = Section("zero_optimization");
    if (zero == nullptr) return;
    const double stage = AsNumber(FindKey(*zero, "stage")).value_or(0);
    if (stage > 2) return Refuse("zero_optimization.stage", "is above 2");
    config_.mutable_parallel()->set_zero_stage(static_cast<int32_t>(stage));
    if (IsTrue(FindKey(*zero, "cpu_offload"))) Refuse("zero_optimization.cpu_offload", "is true");
    ignored_.push_back("zero_optimization but for stage: how it is communicated");
  }

  void Fp16Key(const std::string& key, const JsonValue& value) {
    config::LossScaleConfig* scale = config_.mutable_loss_scale();
    const std::string name = "fp16." + key;
    if (key == "enabled" || key == "fp16") {
      if (key == "enabled" && IsTrue(&value)) config_.set_precision(config::FP16);
      return;
    }
    const double number = CheckNumber(name, &value).value_or(0);
    if (key == "loss_scale") {
      scale->set_static_scale(number);
    } else if (key == "loss_scale_window") {
      scale->set_window(static_cast<int32_t>(number));
    } else if (key == "initial_scale_power") {
      scale->set_initial_scale_power(static_cast<int32_t>(number));
    } else if (key == "hysteresis") {
      scale->set_hysteresis(static_cast<int32_t>(number));
    } else if (key == "min_loss_scale") {
      scale->set_min_scale(number);
    } else {
      Refuse(name, "is unknown");
    }
  }

  const JsonObject* Section(std::string_view key) {
    const JsonValue* value = Take(key);
    const auto* object = value == nullptr ? nullptr : value->As<JsonObject>();
    if (value != nullptr && object == nullptr) Refuse(key, "is no mapping");
    return object;
  }
  static bool IsTrue(const JsonValue* value) {
    const bool* flag = value == nullptr ? nullptr : value->As<bool>();
    return flag != nullptr && *flag;
  }

  void Intervals() {
    std::optional<int64_t> every = Count("checkpoint_factor");
    const std::optional<int64_t> save_interval = Count("save_interval");  // its older name
    if (!every) every = save_interval;
    if (every) config_.mutable_checkpoint()->set_every_steps(*every);
    if (Take("extra_save_iters") != nullptr) {
      config_.mutable_checkpoint()->set_log_spaced(true);
      ignored_.push_back("extra_save_iters: became checkpoint.log_spaced (0, 1, 2, 4 ... 512)");
    }
    if (const auto steps = Count("eval_interval")) config_.mutable_eval()->set_every_steps(*steps);
    if (const auto steps = Count("eval_iters")) config_.mutable_eval()->set_steps(*steps);
    if (const auto steps = Count("log_interval")) {
      config_.mutable_logging()->set_every_steps(*steps);
    }
  }

  void Ignore() {
    for (const auto& [key, reason] : kNeoxIgnoredKeys) {
      if (Take(key) != nullptr) ignored_.push_back(fmt::format("{}: {}", key, reason));
    }
  }

  void RefuseRest() {
    for (const auto& [key, value] : keys_) {
      if (!used_.contains(key)) Refuse(key, "is unknown to Sepia");
    }
    if (refused_.empty()) return;
    throw UserError(fmt::format("{}: these keys have no equivalent:{}\nchange or remove them",
                                path_, refused_));
  }

  const JsonObject& keys_;
  const std::string& path_;
  const NeoxConversionOptions& options_;
  config::TrainConfig config_;
  std::set<std::string_view> used_;
  std::vector<std::string> ignored_;
  std::string refused_;
};

}  // namespace

NeoxConversion ConvertNeoxConfig(const JsonObject& keys, const std::string& path,
                                 const NeoxConversionOptions& options) {
  return Converter(keys, path, options).Run();
}

}  // namespace sepia::tools
