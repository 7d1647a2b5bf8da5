// sepia check: everything about a run except training it.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/integer.h"
#include "data/tokenizer/tokenizer.h"
#include "kernels/device.h"
#include "kernels/gemm_peak.h"
#include "tools/sepia/byte_size.h"
#include "tools/sepia/command.h"
#include "tools/sepia/memory_choices.h"
#include "tools/sepia/set_option.h"
#include "trainer/config.h"
#include "trainer/data_check.h"
#include "trainer/flops.h"
#include "trainer/header_block.h"
#include "trainer/log_line.h"
#include "trainer/machine.h"
#include "trainer/memory_plan.h"
#include "trainer/micro_steps.h"

namespace sepia::tools {
namespace {

using trainer::FormatBytes;
using trainer::FormatCount;
using trainer::TrainSettings;

// Rows of the datasets that are looked at.
constexpr int64_t kSampledRows = 64;
// Share of the peak that a good run reaches; the estimate is printed with it.
constexpr double kUsualMfu = 0.4;
// Master weights and two moments, fp32.
constexpr int64_t kCheckpointBytesPerParameter = 12;

struct CheckOptions {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 0;
  std::string device;
  double peak_gflops = 0;
  bool require_files = false;
};

struct DeviceLimit {
  bool is_cpu = true;
  bool given = false;
  int64_t bytes = 0;  // 0: unknown
};

DeviceLimit ParseDevice(const std::string& text) {
  DeviceLimit limit{.given = !text.empty()};
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  limit.is_cpu = text.empty() || name == "cpu";
  if (!limit.is_cpu && name != "cuda") {
    throw UserError(
        fmt::format("--device {}: unknown device; use cpu, cpu:64GiB or cuda:80GiB", text));
  }
  if (colon == std::string::npos) {
    if (limit.is_cpu) limit.bytes = trainer::ReadMachine().memory_bytes();
    return limit;
  }
  const std::string size = text.substr(colon + 1);
  const std::optional<int64_t> bytes = ParseByteSize(size);
  if (!bytes) {
    throw UserError(fmt::format("--device {}: \"{}\" is not a size such as 80GiB", text, size));
  }
  limit.bytes = *bytes;
  return limit;
}

// FormatDuration, with years where days say nothing any more.
std::string LongDuration(double seconds) {
  constexpr double kYear = 365.25 * 24 * 3600;
  return seconds > 2 * kYear ? fmt::format("{:.0f} years", seconds / kYear)
                             : FormatDuration(seconds);
}

void Print(const char* label, const std::string& text) { fmt::print("{:<12}{}\n", label, text); }

class Check {
 public:
  Check(const CheckOptions& options, trainer::LoadedConfig config)
      : options_(options),
        config_(std::move(config)),
        s_(config_.settings),
        device_(ParseDevice(options.device)),
        ranks_(options.ranks > 0 ? options.ranks : s_.parallel.tensor),
        data_ranks_(ranks_ / s_.parallel.tensor) {}

  void Run() {
    Print("config", options_.config + ": valid");
    PrintModel();
    PrintData();
    PrintAttention();
    PrintSteps();
    PrintMemory();
    PrintDisk();
    PrintTime();
    Conclude();
  }

 private:
  void PrintModel() {
    const model::ModelConfig& m = s_.model;
    Print("model", fmt::format("{} layers, width {}, {} heads of {}, vocabulary {}: {} parameters",
                               m.num_layers, m.hidden_size, m.num_heads, m.head_dim(), m.vocab_size,
                               m.num_parameters()));
    Print("numerics", fmt::format("{}, {}", trainer::NumericsName(s_.numerics),
                                  trainer::PrecisionName(s_.precision)));
    for (const std::string& deviation : config_.deviations) Print("", "departs: " + deviation);
    for (const std::string& warning : config_.warnings) warnings_.push_back(warning);
    if (s_.device == Device::kCuda) {
      try {
        kernels::OpenDevice(s_.device);
      } catch (const Error& error) {
        warnings_.push_back(error.what());
      }
    }
    if (s_.precision == trainer::Precision::kFp16 && s_.device == Device::kCpu) {
      warnings_.push_back("precision: FP16 is emulated on the CPU; BF16 or FP32 are faster there");
    }
    const std::string& source = s_.init_from.path;
    if (source.empty()) return;
    const bool missing = !FileExists(source);
    Print("weights", fmt::format("from {}{}", source, missing ? ": MISSING" : ""));
    if (missing) missing_.push_back(source);
  }

  void PrintData() {
    for (const trainer::DatasetFacts& facts : trainer::InspectDatasets(s_.data)) {
      std::string text = facts.role + " " + facts.prefix + ": ";
      if (facts.missing) {
        text += "MISSING";
        missing_.push_back(facts.prefix + ".idx");
      } else if (!facts.problem.empty()) {
        text += "UNUSABLE";
        problems_.push_back(facts.problem);
      } else {
        text +=
            fmt::format("{} sequences, {} tokens ({})", facts.sequences, facts.tokens, facts.dtype);
        if (facts.role == "train" || facts.role == "source") train_tokens_ += facts.tokens;
      }
      Print("data", text);
    }
    CheckTokenizer();
    sample_ = trainer::SampleText(s_, kSampledRows);
    if (sample_ && sample_->largest_id >= s_.model.vocab_size) {
      problems_.push_back(fmt::format(
          "the training data holds token id {}, but model.vocab_size is {}; use the tokenizer that "
          "the model was made for, or raise vocab_size",
          sample_->largest_id, s_.model.vocab_size));
    }
  }

  void CheckTokenizer() {
    const std::string& path = s_.data.tokenizer;
    if (path.empty()) return;
    if (!FileExists(path)) {
      Print("tokenizer", path + ": MISSING");
      missing_.push_back(path);
      return;
    }
    try {
      const auto tokenizer = data::Tokenizer::Load(path);
      Print("tokenizer", fmt::format("{}: {} entries", path, tokenizer.vocab_size()));
      if (tokenizer.vocab_size() > s_.model.vocab_size) {
        problems_.push_back(fmt::format("{}: {} tokens, but model.vocab_size is {}", path,
                                        tokenizer.vocab_size(), s_.model.vocab_size));
      }
    } catch (const Error& error) {
      Print("tokenizer", path + ": UNUSABLE");
      problems_.emplace_back(error.what());
    }
  }

  void PrintAttention() {
    const int64_t length = s_.data.sequence_length;
    std::string basis;
    if (sample_) {
      attention_ = sample_->attention;
      attention_rows_ = sample_->tokens / length;
      basis = fmt::format("measured on {} rows of the training data", attention_rows_);
      if (!s_.model.separator_ids.empty()) {
        basis += fmt::format(", {:.1f} % separators", 100 * sample_->separator_density());
      }
    } else {
      attention_ =
          trainer::ExpectedAttentionWork(s_.model, length, trainer::kUsualSeparatorDensity);
      attention_rows_ = 1;
      basis = "expected";
      if (!s_.model.separator_ids.empty()) {
        basis += fmt::format(" for {:.0f} % separators", 100 * trainer::kUsualSeparatorDensity);
      }
    }
    const double kept = attention_.kept_share();
    Print("attention", trainer::DescribeAttention(s_.model));
    Print("", fmt::format("Attn {:.2f} %, FLOPs {:.2f} % by SepLLM's formula ({})", 100 * kept,
                          trainer::PaperFlopsPercent(s_.model, length, kept), basis));
  }

  void PrintSteps() {
    const int64_t accumulation = s_.batch.global / (s_.batch.micro * data_ranks_);
    Print("batch",
          fmt::format("{} samples of {} tokens = {} tokens a step: {} data rank{} x micro "
                      "{} x {} accumulation",
                      s_.batch.global, s_.data.sequence_length, s_.tokens_per_step(), data_ranks_,
                      data_ranks_ == 1 ? "" : "s", s_.batch.micro, accumulation));
    if (s_.cuda_graphs) {
      Print("", trainer::MicroBatchesAsGraphs(s_.parallel, data_ranks_, accumulation).Describe());
    }
    const double tokens =
        static_cast<double>(s_.tokens_per_step()) * static_cast<double>(s_.schedule.total_steps);
    std::string epochs;
    if (train_tokens_ > 0 && s_.data.source.empty()) {
      epochs = fmt::format(", {:.2f} epochs of the training data",
                           tokens / static_cast<double>(train_tokens_));
    }
    Print("run", fmt::format("{} steps, {} tokens{}; {}", s_.schedule.total_steps,
                             FormatCount(tokens), epochs, s_.run_dir));
  }

  void PrintMemory() {
    const trainer::RunMemory memory = trainer::PlanMemory(s_, data_ranks_);
    Print("memory", "of one rank");
    for (const auto& [name, bytes] : memory.rows()) {
      fmt::print("{:<12}  {:<12}{:>10}\n", "", name, FormatBytes(bytes));
    }
    if (device_.bytes > 0 && memory.total() <= device_.bytes) {
      fmt::print("{:<12}  fits in {}\n", "", FormatBytes(device_.bytes));
    }
    const std::vector<MemoryChoice> choices = MemoryChoices(s_, data_ranks_);
    Print("choices", "that trade memory for time (total of one rank; * is set)");
    const double added =
        RecomputedShare(s_.model, attention_rows_ * s_.data.sequence_length, attention_);
    for (const std::string& line : DescribeChoices(s_, choices, device_.bytes, added)) {
      fmt::print("{:<12}  {}\n", "", line);
    }
    if (device_.bytes == 0 || memory.total() <= device_.bytes) return;
    const std::string fitting = ChoiceThatFits(choices, device_.bytes);
    const std::string message = fmt::format(
        "{} a rank do not fit in {}; {}", FormatBytes(memory.total()), FormatBytes(device_.bytes),
        fitting.empty() ? "use more tensor ranks or a shorter data.sequence_length" : fitting);
    (device_.given ? problems_ : warnings_).push_back(message);
  }

  // Checkpoints that exist at the end of the run.
  int64_t KeptCheckpoints() const {
    const trainer::CheckpointSettings& c = s_.checkpoint;
    const int64_t steps = s_.schedule.total_steps;
    int64_t written = 1;
    if (c.every_steps > 0) written = CeilDiv(steps, c.every_steps);
    if (c.log_spaced) {
      written += 1;
      for (int64_t step = 1; step <= std::min<int64_t>(512, steps); step *= 2) ++written;
    }
    if (c.keep_last == 0) return written;
    const int64_t kept_for_ever = c.keep_every > 0 ? steps / c.keep_every : 0;
    return std::min(written, c.keep_last + kept_for_ever);
  }

  void PrintDisk() {
    const int64_t each = s_.model.num_parameters() * kCheckpointBytesPerParameter;
    const int64_t kept = KeptCheckpoints();
    const double total = static_cast<double>(each) * static_cast<double>(kept);
    const int64_t free = trainer::FreeDiskBytes(s_.checkpoint.dir);
    std::string text =
        fmt::format("{} a checkpoint, {} kept: {}B", FormatBytes(each), kept, FormatCount(total));
    if (free >= 0) text += fmt::format("; {} free", FormatBytes(free));
    Print("disk", text);
    if (free >= 0 && total > static_cast<double>(free)) {
      warnings_.push_back("the checkpoints do not fit on the disk; set checkpoint.keep_last");
    }
  }

  void PrintTime() {
    trainer::AttentionWork step = attention_;
    const double rows = static_cast<double>(s_.batch.global) / static_cast<double>(attention_rows_);
    step.visited_pairs *= rows;
    const double flops = trainer::TrainingFlops(s_.model, s_.tokens_per_step(), step);
    double peak = options_.peak_gflops > 0 ? options_.peak_gflops : s_.logging.peak_gflops;
    std::string basis = "given";
    if (peak <= 0 && device_.is_cpu) {
      const DType dtype =
          s_.precision == trainer::Precision::kBf16 ? DType::kBFloat16 : DType::kFloat32;
      peak = kernels::MeasureGemmPeakGflops(dtype, trainer::NumThreads(s_));
      basis = "measured here";
    }
    std::string text = fmt::format("{:.3g} FLOPs a step", flops);
    if (peak > 0) {
      const double seconds = flops / (peak * 1e9 * ranks_ * kUsualMfu);
      text += fmt::format("; {} a step, {} in all at {:.0f} % of {:.0f} GFLOP/s a rank ({})",
                          seconds < 10 ? fmt::format("{:.2g}s", seconds) : FormatDuration(seconds),
                          LongDuration(seconds * static_cast<double>(s_.schedule.total_steps)),
                          100 * kUsualMfu, peak, basis);
    } else {
      text += "; give --peak-gflops for an estimate of the time";
    }
    Print("time", text);
  }

  void Conclude() {
    for (const std::string& warning : warnings_) Print("warning", warning);
    for (const std::string& problem : problems_) Print("problem", problem);
    if (!problems_.empty()) {
      throw UserError(fmt::format("{}: {} problem{}", options_.config, problems_.size(),
                                  problems_.size() == 1 ? "" : "s"));
    }
    if (missing_.empty()) {
      Print("ready", "sepia train " + options_.config);
      return;
    }
    const std::string text = fmt::format("{} missing file{}; training cannot start without",
                                         missing_.size(), missing_.size() == 1 ? "" : "s");
    if (options_.require_files) throw UserError(options_.config + ": " + text);
    Print("not ready", text);
  }

  const CheckOptions& options_;
  const trainer::LoadedConfig config_;
  const TrainSettings& s_;
  const DeviceLimit device_;
  const int ranks_;
  const int data_ranks_;
  std::optional<trainer::TextSample> sample_;
  trainer::AttentionWork attention_;  // of attention_rows_ rows
  int64_t attention_rows_ = 1;
  int64_t train_tokens_ = 0;
  std::vector<std::string> missing_;
  std::vector<std::string> warnings_;
  std::vector<std::string> problems_;
};

}  // namespace

void AddCheckCommand(CLI::App& app) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* command = app.add_subcommand(
      "check", "everything about a run except training: config, files, memory, time");
  command->add_option("config", options->config, "config file (text format)")->required();
  AddSetOption(*command, &options->overrides);
  command->add_option("--ranks", options->ranks, "number of processes (default: one data rank)")
      ->check(CLI::PositiveNumber);
  command->add_option(
      "--device", options->device,
      "cpu, cpu:64GiB or cuda:80GiB: a rank must fit (default: this machine, with a "
      "warning)");
  command->add_option("--peak-gflops", options->peak_gflops,
                      "peak of one rank for the time estimate (default: measured here)");
  command->add_flag("--require-files", options->require_files,
                    "missing data is an error instead of a remark");
  command->footer(
      "Exit code 0: the config is valid (data that is not there yet is reported); 2: it is not.\n"
      "Examples:\n"
      "  sepia check configs/sepllm-160m-n64.textproto\n"
      "  sepia check run.textproto --ranks 8 --device cuda:80GiB --peak-gflops 500000");
  command->final_callback([options] {
    const trainer::LoadOptions load{.ranks = options->ranks,
                                    .allow_missing_files = !options->require_files};
    Check(*options, trainer::LoadConfig(options->config, options->overrides, load)).Run();
  });
}

}  // namespace sepia::tools
