#include "trainer/header_block.h"

#include <algorithm>
#include <string_view>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include "trainer/log_line.h"
#include "trainer/process.h"

namespace sepia::trainer {
namespace {

std::string_view KindName(AttentionKind kind) {
  switch (kind) {
    case AttentionKind::kFull: return "FULL";
    case AttentionKind::kSep: return "SEP";
    case AttentionKind::kStreaming: return "STREAMING";
    case AttentionKind::kFixedStride: return "FIXED_STRIDE";
  }
  return "?";
}

std::string_view ScheduleName(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kCosine: return "cosine";
    case ScheduleKind::kLinear: return "linear";
    case ScheduleKind::kConstant: return "constant";
    case ScheduleKind::kWarmupStableDecay: return "warm-up, stable, decay";
  }
  return "?";
}

std::string DescribeModel(const model::ModelConfig& m) {
  return fmt::format(
      "{} parameters: {} layers, width {}, {} heads of {}, vocabulary {}, {} GeLU, {} residual{}",
      FormatCount(static_cast<double>(m.num_parameters())), m.num_layers, m.hidden_size,
      m.num_heads, m.head_dim(), m.vocab_size,
      m.activation == kernels::GeluKind::kTanh ? "tanh" : "erf",
      m.parallel_residual ? "parallel" : "sequential", m.tie_embeddings ? ", tied head" : "");
}

std::string DescribeSchedule(const TrainSettings& s) {
  return fmt::format("AdamW lr {} -> {}, betas {} {}, decay {}, clip {}; {} to step {}, warm-up {}",
                     FormatRate(s.optimizer.lr), FormatRate(s.optimizer.min_lr), s.optimizer.beta1,
                     s.optimizer.beta2, s.optimizer.weight_decay, s.optimizer.clip,
                     ScheduleName(s.schedule.kind), s.schedule.decay_steps,
                     s.schedule.warmup_steps);
}

}  // namespace

std::string DescribeAttention(const model::ModelConfig& model) {
  std::vector<size_t> full;
  const model::LayerAttention* sparse = nullptr;
  bool uniform = true;
  for (size_t layer = 0; layer < model.attention.size(); ++layer) {
    const model::LayerAttention& attention = model.attention[layer];
    if (attention.kind == AttentionKind::kFull) {
      full.push_back(layer);
    } else if (sparse == nullptr) {
      sparse = &attention;
    } else {
      uniform = uniform && attention == *sparse;
    }
  }
  if (sparse == nullptr) return "FULL (dense causal)";
  std::string text = fmt::format("{} window {}, initial {}", KindName(sparse->kind), sparse->window,
                                 sparse->num_initial);
  if (!uniform) text = fmt::format("{} with windows per layer", KindName(sparse->kind));
  if (sparse->kind == AttentionKind::kSep) {
    text += fmt::format(", {} separators", model.separator_ids.size());
  }
  if (sparse->kind == AttentionKind::kFixedStride) {
    text += fmt::format(", stride {}", sparse->stride);
  }
  if (!full.empty()) text += fmt::format("; full layers [{}]", fmt::join(full, ", "));
  return text;
}

std::vector<std::string> HeaderBlock(const LoadedConfig& config, const HeaderFacts& facts) {
  const TrainSettings& s = config.settings;
  const double kept = facts.first_step.kept_share();
  const int64_t accumulation = s.batch.global / (s.batch.micro * facts.data_ranks);
  std::vector<std::string> lines = {
      "model      " + DescribeModel(s.model),
      "attention  " + DescribeAttention(s.model),
      fmt::format("           Attn {:.2f} % and FLOPs {:.2f} % (SepLLM's formula) of the first "
                  "batch; {:.3g} FLOPs a step on visited pairs",
                  100 * kept, PaperFlopsPercent(s.model, s.data.sequence_length, kept),
                  TrainingFlops(s.model, s.tokens_per_step(), facts.first_step)),
      fmt::format("batch      {} samples of {} tokens a step = {} tokens ({} ranks x micro {} x {} "
                  "accumulation)",
                  s.batch.global, s.data.sequence_length, s.tokens_per_step(), facts.data_ranks,
                  s.batch.micro, accumulation),
      "optimizer  " + DescribeSchedule(s),
      fmt::format("numerics   {} in {}, seed {}", NumericsName(s.numerics),
                  PrecisionName(s.precision), s.seed)};
  for (const std::string& deviation : config.deviations) lines.push_back("           " + deviation);
  lines.push_back("data       " + facts.train_data);
  lines.push_back(
      fmt::format("machine    {}: {} rank{}, {} thread{} each, attention by {}{}; {} planned",
                  HostName(), facts.ranks, facts.ranks == 1 ? "" : "s", facts.threads,
                  facts.threads == 1 ? "" : "s", facts.attention_kernels,
                  facts.peak_gflops > 0 ? fmt::format(", peak {:.0f} GFLOP/s", facts.peak_gflops)
                                        : std::string(),
                  FormatBytes(facts.memory_bytes)));
  if (!facts.device.empty()) lines.push_back("device     " + facts.device);
  if (!facts.graphs.empty()) lines.push_back("graphs     " + facts.graphs);
  lines.push_back(fmt::format("run        {}; {} steps", s.run_dir, s.schedule.total_steps));
  lines.push_back("command    " + CommandLine());
  lines.push_back("start      " + facts.start);
  return lines;
}

}  // namespace sepia::trainer
