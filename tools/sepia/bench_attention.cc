// sepia bench attention: Sep-Attention forward and backward.
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/philox.h"
#include "kernels/cpu/register_peak.h"
#include "tools/sepia/attention_workload.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/bench_text.h"
#include "tools/sepia/choice_option.h"

namespace sepia::tools {
namespace {

using kernels::cpu::Isa;

struct Options {
  std::vector<AttentionKind> kinds = {AttentionKind::kSep};
  AttentionShape shape = {.batch = 1, .seq = 2048, .heads = 12, .head_dim = 64};
  int64_t window = 64;
  int32_t num_initial = 3;
  int32_t stride = 6;
  double density = 0.16;
  std::string text;
  std::string tokenizer;
  std::vector<DType> dtypes = {DType::kFloat32};
  std::vector<int> threads = {1};
  std::vector<Isa> isas = {kernels::cpu::ActiveIsa()};
  int repeats = 9;
  bool paced = false;
};

const std::map<std::string, AttentionKind> kKinds = {{"sep", AttentionKind::kSep},
                                                     {"full", AttentionKind::kFull},
                                                     {"streaming", AttentionKind::kStreaming},
                                                     {"fixed_stride", AttentionKind::kFixedStride}};

std::string NameOf(AttentionKind kind) {
  for (const auto& [name, value] : kKinds) {
    if (value == kind) return name;
  }
  return "";
}

constexpr int32_t kSyntheticSeparator = 15;

// Separators at random places.
std::vector<int32_t> SyntheticTokens(int64_t count, double density) {
  const PhiloxStream random(1, "tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = random.Uniform(i) < density ? kSyntheticSeparator : 1000;
  }
  return tokens;
}

TokensAndSeparators Tokens(const Options& o) {
  const int64_t count = o.shape.batch * o.shape.seq;
  if (!o.text.empty()) return TokensOfText(o.text, o.tokenizer, count);
  return {SyntheticTokens(count, o.density), {kSyntheticSeparator}};
}

// One line of the result, while it is being measured.
struct Case {
  AttentionKind kind;
  DType dtype;
  int num_threads;
  const AttentionIndex* index;
  const AttentionBuffers* buffers;
  std::unique_ptr<AttentionWorkload> workload;
  double verified_error = 0;
  std::vector<double> forward_s = {}, backward_s = {}, both_s = {}, peak_gflops = {};

  double MeasureOnce() {
    peak_gflops.push_back(kernels::cpu::RegisterPeakGflops(workload->code_isa(), num_threads));
    const double forward = TimeOnce([&] { workload->Forward(); });
    peak_gflops.push_back(kernels::cpu::RegisterPeakGflops(workload->code_isa(), num_threads));
    const double backward = TimeOnce([&] { workload->Backward(); });
    forward_s.push_back(forward);
    backward_s.push_back(backward);
    both_s.push_back(forward + backward);
    return forward + backward;
  }
};

// All combinations of the lists among the options.
class Cases {
 public:
  explicit Cases(const Options& o) {
    const TokensAndSeparators input = Tokens(o);
    for (const AttentionKind kind : o.kinds) {
      indexes_.try_emplace(kind, input.tokens, o.shape.batch, o.shape.seq,
                           AttentionIndexSpec{kind, o.num_initial, o.stride, input.separator_ids});
    }
    for (const DType dtype : o.dtypes) buffers_.try_emplace(dtype, o.shape, dtype);
    for (const AttentionKind kind : o.kinds) {
      for (const DType dtype : o.dtypes) {
        for (const Isa isa : o.isas) {
          for (const int num_threads : o.threads) Add(o, kind, dtype, isa, num_threads);
        }
      }
    }
  }

  std::vector<Case>& all() { return cases_; }

 private:
  // Instruction sets without code of their own for the dtype give the same case once.
  void Add(const Options& o, AttentionKind kind, DType dtype, Isa isa, int num_threads) {
    const AttentionIndex& index = indexes_.at(kind);
    const AttentionBuffers& buffers = buffers_.at(dtype);
    const int64_t window = kind == AttentionKind::kFull ? o.shape.seq : o.window;
    auto workload = std::make_unique<AttentionWorkload>(
        buffers, index, AttentionWorkload::Variant{isa, window, num_threads});
    for (const Case& other : cases_) {
      if (other.kind == kind && other.dtype == dtype && other.num_threads == num_threads &&
          other.workload->code_isa() == workload->code_isa()) {
        return;
      }
    }
    cases_.push_back({.kind = kind,
                      .dtype = dtype,
                      .num_threads = num_threads,
                      .index = &index,
                      .buffers = &buffers,
                      .workload = std::move(workload)});
  }

  std::map<AttentionKind, AttentionIndex> indexes_;
  std::map<DType, AttentionBuffers> buffers_;
  std::vector<Case> cases_;
};

double FarDensity(const AttentionIndex& index) {
  int64_t packed = 0;
  for (int64_t row = 0; row < index.batch_size(); ++row) {
    packed += static_cast<int64_t>(index.positions(row).size());
  }
  return static_cast<double>(packed) / static_cast<double>(index.batch_size() * index.seq_length());
}

nlohmann::ordered_json Report(const Options& o, const Case& c) {
  const auto& [batch, seq, heads, head_dim] = o.shape;
  const Spread forward = Summarize(c.forward_s);
  const Spread backward = Summarize(c.backward_s);
  const Spread both = Summarize(c.both_s);
  const Spread peak = Summarize(c.peak_gflops);
  const auto visited = static_cast<double>(c.workload->VisiblePairs());
  const double causal = static_cast<double>(batch * seq) * static_cast<double>(seq + 1) / 2;
  const double per_pair = static_cast<double>(heads * head_dim) / 1e9;
  const double gflops_visited = 14 * per_pair * visited / both.median;
  const auto bytes = c.buffers->TouchedBytes();
  return {
      {"bench", "attention"},
      {"kind", NameOf(c.kind)},
      {"seq", seq},
      {"heads", heads},
      {"head_dim", head_dim},
      {"batch", batch},
      {"window", o.window},
      {"far_density", FarDensity(*c.index)},
      {"dtype", std::string(DTypeName(c.dtype))},
      {"threads", c.num_threads},
      {"repeats", o.repeats},
      {"isa", c.workload->isa_name()},
      {"verified_error", c.verified_error},
      {"seconds", both.median},
      {"min_s", both.min},
      {"max_s", both.max},
      {"fwd_s", forward.median},
      {"fwd_min_s", forward.min},
      {"fwd_max_s", forward.max},
      {"bwd_s", backward.median},
      {"bwd_min_s", backward.min},
      {"bwd_max_s", backward.max},
      {"visited_pairs", c.workload->VisiblePairs()},
      {"attn_kept", visited / causal},
      {"fwd_gflops", 4 * per_pair * visited / forward.median},
      {"bwd_gflops", 10 * per_pair * visited / backward.median},
      {"gflops_visited", gflops_visited},
      {"gflops_causal", 14 * per_pair * causal / both.median},
      {"peak_gflops", peak.median},
      {"peak_min_gflops", peak.min},
      {"peak_max_gflops", peak.max},
      {"peak_share", gflops_visited / peak.median},
      {"bytes", bytes},
      {"gb_per_s", static_cast<double>(bytes) / both.median / 1e9},
      {"scratch_bytes", c.workload->scratch_bytes()},
  };
}

void RunBenchAttention(const Options& o) {
  Cases cases(o);
  for (Case& c : cases.all()) c.verified_error = c.workload->Verify();
  RunRounds(o.repeats, o.paced, cases.all().size(), [&] {
    std::vector<double> seconds;
    for (Case& c : cases.all()) seconds.push_back(c.MeasureOnce());
    return seconds;
  });
  for (const Case& c : cases.all()) std::cout << Report(o, c).dump() << std::endl;
}

void AddIsaOption(CLI::App& command, std::vector<Isa>& isas) {
  std::map<std::string, Isa> choices;
  for (const Isa isa : kernels::cpu::RunnableIsas()) {
    choices.emplace(kernels::cpu::IsaName(isa), isa);
  }
  AddChoicesOption(command, "--isa", isas, choices,
                   "instruction sets of this machine (default: as in training)");
}

void AddShapeOptions(CLI::App& command, AttentionShape& shape) {
  command.add_option("--seq", shape.seq, "tokens a sequence")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--heads", shape.heads, "heads")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command.add_option("--head-dim", shape.head_dim, "size of a head")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command.add_option("--batch", shape.batch, "sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
}

void AddRuleOptions(CLI::App& command, Options& o) {
  command.add_option("--window", o.window, "keys in the window, own included")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--num-initial", o.num_initial, "initial positions")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  command.add_option("--stride", o.stride, "of fixed_stride")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  CLI::Option* density = command.add_option("--density", o.density, "share of separators")
                             ->capture_default_str()
                             ->check(CLI::Range(0.0, 1.0));
  CLI::Option* tokenizer =
      command.add_option("--tokenizer", o.tokenizer, "tokenizer.json for --text");
  command.add_option("--text", o.text, "separators as in this text, instead of random ones")
      ->needs(tokenizer)
      ->excludes(density);
}

}  // namespace

void AddBenchAttentionCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("attention", "speed of Sep-Attention");
  AddChoicesOption(*command, "--kind", o->kinds, kKinds, "default: sep");
  AddShapeOptions(*command, o->shape);
  AddRuleOptions(*command, *o);
  AddDTypesOption(*command, o->dtypes);
  AddThreadsOption(*command, o->threads);
  AddIsaOption(*command, o->isas);
  AddRepeatsOption(*command, o->repeats);
  AddPacedOption(*command, o->paced);
  command->footer(
      "--kind, --dtype, --threads and --isa take lists: all combinations run in turn, a line "
      "each.\n"
      "Compares sampled queries and keys with a double reference before anything is timed.\n"
      "visited_pairs counts (query, key) pairs of the batch for one head; forward is 4 D and\n"
      "backward 10 D operations a pair and head. gflops_visited takes visited pairs, "
      "gflops_causal\n"
      "all j <= i; peak_share is gflops_visited over a loop of the same instructions on "
      "registers.\n\n"
      "Example:\n  sepia bench attention --kind sep,full --dtype bf16 --isa amx,avx512 --threads "
      "2");
  command->final_callback([o] { RunBenchAttention(*o); });
}

}  // namespace sepia::tools
