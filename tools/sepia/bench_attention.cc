// sepia bench attention: Sep-Attention forward and backward.
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/arena.h"
#include "base/error.h"
#include "base/philox.h"
#include "kernels/sep_attention.h"
#include "tools/sepia/attention_check.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/bench_text.h"
#include "tools/sepia/choice_option.h"

namespace sepia::tools {
namespace {

struct Options {
  AttentionKind kind = AttentionKind::kSep;
  int64_t seq = 2048;
  int64_t heads = 12;
  int64_t head_dim = 64;
  int64_t batch = 1;
  int64_t window = 64;
  int32_t num_initial = 3;
  int32_t stride = 6;
  double density = 0.16;
  std::string text;
  std::string tokenizer;
  DType dtype = DType::kFloat32;
  int threads = 1;
  int repeats = 9;
};

const std::map<std::string, AttentionKind> kKinds = {{"sep", AttentionKind::kSep},
                                                     {"full", AttentionKind::kFull},
                                                     {"streaming", AttentionKind::kStreaming},
                                                     {"fixed_stride", AttentionKind::kFixedStride}};

constexpr int32_t kSyntheticSeparator = 15;

// Separators at random places.
std::vector<int32_t> SyntheticTokens(const Options& options) {
  const PhiloxStream random(1, "tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(options.batch * options.seq));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = random.Uniform(i) < options.density ? kSyntheticSeparator : 1000;
  }
  return tokens;
}

AttentionIndex BuildIndex(const Options& options) {
  TokensAndSeparators input =
      options.text.empty()
          ? TokensAndSeparators{SyntheticTokens(options), {kSyntheticSeparator}}
          : TokensOfText(options.text, options.tokenizer, options.batch * options.seq);
  return AttentionIndex(input.tokens, options.batch, options.seq,
                        {options.kind, options.num_initial, options.stride, input.separator_ids});
}

OwnedTensor RandomTensor(const char* name, DType dtype, const Shape& shape) {
  const PhiloxStream random(2, name);
  OwnedTensor tensor(dtype, shape);
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    const float value = random.Normal(static_cast<uint64_t>(i));
    switch (dtype) {
      case DType::kBFloat16: tensor.data<BFloat16>()[i] = BFloat16(value); break;
      case DType::kFloat16: tensor.data<Float16>()[i] = Float16(value); break;
      default: tensor.data<float>()[i] = value;
    }
  }
  return tensor;
}

// Everything one call needs.
class Workload {
 public:
  explicit Workload(const Options& o)
      : index_(BuildIndex(o)),
        window_(o.kind == AttentionKind::kFull ? o.seq : o.window),
        qkv_(RandomTensor("qkv", o.dtype, {o.batch, o.seq, o.heads, 3, o.head_dim})),
        dout_(RandomTensor("dout", o.dtype, {o.batch, o.seq, o.heads, o.head_dim})),
        out_(o.dtype, dout_.view().shape()),
        dqkv_(o.dtype, qkv_.view().shape()),
        lse_(DType::kFloat32, {o.batch, o.heads, o.seq}),
        scratch_("scratch", kernels::SepAttentionScratchBytes(
                                {o.batch, o.seq, o.heads, o.head_dim, o.dtype, o.threads})),
        ctx_{Device::kCpu, o.threads, &scratch_} {}

  void Forward() {
    kernels::SepAttentionForward(
        ctx_, {.qkv = qkv_, .index = &index_, .window = window_, .out = out_, .lse = lse_});
  }
  void Backward() {
    kernels::SepAttentionBackward(ctx_, {.qkv = qkv_,
                                         .index = &index_,
                                         .window = window_,
                                         .out = out_,
                                         .lse = lse_,
                                         .dout = dout_,
                                         .dqkv = dqkv_});
  }

  // Throws when the kernel is wrong; returns its worst relative error.
  double Verify() {
    Forward();
    Backward();
    const double error = WorstAttentionError(
        {.qkv = qkv_, .out = out_, .lse = lse_, .dout = dout_, .dqkv = dqkv_}, index_, window_);
    // One rounding of each number, and fp32 sums of up to thousands of terms.
    const DType dtype = qkv_.view().dtype();
    const double rounding = dtype == DType::kFloat32    ? 0
                            : dtype == DType::kBFloat16 ? 0x1p-8
                                                        : 0x1p-11;
    const double limit = rounding + 1e-4;
    CHECK(error <= limit, "attention differs from the reference by {:g} > {:g}", error, limit);
    return error;
  }

  // Of all batch rows, one head.
  int64_t VisiblePairs() const { return index_.VisiblePairs(window_); }
  double Density() const {
    int64_t packed = 0;
    for (int64_t row = 0; row < index_.batch_size(); ++row) {
      packed += static_cast<int64_t>(index_.positions(row).size());
    }
    return static_cast<double>(packed) /
           static_cast<double>(index_.batch_size() * index_.seq_length());
  }
  int64_t ScratchBytes() const { return scratch_.high_water_bytes(); }
  // What forward and backward read and write at least.
  int64_t TensorBytes() const {
    return 2 * qkv_.view().num_bytes() + 2 * out_.view().num_bytes() + 2 * lse_.view().num_bytes() +
           dout_.view().num_bytes() + dqkv_.view().num_bytes();
  }

 private:
  AttentionIndex index_;
  int64_t window_;
  OwnedTensor qkv_, dout_, out_, dqkv_, lse_;
  Arena scratch_;
  kernels::Context ctx_;
};

std::string NameOf(AttentionKind kind) {
  for (const auto& [name, value] : kKinds) {
    if (value == kind) return name;
  }
  return "";
}

void RunBenchAttention(const Options& o) {
  Workload workload(o);
  const double error = workload.Verify();
  std::vector<double> forward_s, backward_s, peaks;
  for (int i = 0; i < o.repeats; ++i) {
    peaks.push_back(Fp32PeakGflops(o.threads));
    forward_s.push_back(TimeOnce([&] { workload.Forward(); }));
    peaks.push_back(Fp32PeakGflops(o.threads));
    backward_s.push_back(TimeOnce([&] { workload.Backward(); }));
  }
  const Spread forward = Summarize(std::move(forward_s));
  const Spread backward = Summarize(std::move(backward_s));
  // The best burst: other load on the machine lowers peak_share, never raises it.
  const double peak = Summarize(std::move(peaks)).max;

  const auto visited = static_cast<double>(workload.VisiblePairs());
  const double causal = static_cast<double>(o.batch * o.seq) * static_cast<double>(o.seq + 1) / 2;
  const double per_pair = static_cast<double>(o.heads * o.head_dim) / 1e9;
  const double both = forward.median + backward.median;
  const double gflops_visited = 14 * per_pair * visited / both;
  const nlohmann::ordered_json result = {
      {"bench", "attention"},
      {"kind", NameOf(o.kind)},
      {"seq", o.seq},
      {"heads", o.heads},
      {"head_dim", o.head_dim},
      {"batch", o.batch},
      {"window", o.window},
      {"far_density", workload.Density()},
      {"dtype", std::string(DTypeName(o.dtype))},
      {"threads", o.threads},
      {"repeats", o.repeats},
      {"isa", kernels::SepAttentionIsaName(o.dtype)},
      {"verified_error", error},
      {"fwd_s", forward.median},
      {"fwd_min_s", forward.min},
      {"fwd_max_s", forward.max},
      {"bwd_s", backward.median},
      {"bwd_min_s", backward.min},
      {"bwd_max_s", backward.max},
      {"visited_pairs", workload.VisiblePairs()},
      {"attn_kept", visited / causal},
      {"fwd_gflops", 4 * per_pair * visited / forward.median},
      {"bwd_gflops", 10 * per_pair * visited / backward.median},
      {"gflops_visited", gflops_visited},
      {"gflops_causal", 14 * per_pair * causal / both},
      {"peak_gflops", peak},
      {"peak_share", gflops_visited / peak},
      {"bytes", workload.TensorBytes()},
      {"scratch_bytes", workload.ScratchBytes()},
  };
  std::cout << result.dump() << std::endl;
}

}  // namespace

void AddBenchAttentionCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("attention", "speed of Sep-Attention");
  AddChoiceOption(*command, "--kind", o->kind, kKinds, "default: sep");
  command->add_option("--seq", o->seq, "tokens a sequence (default: 2048)")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--heads", o->heads, "heads (default: 12)")->check(CLI::Range(1, 1024));
  command->add_option("--head-dim", o->head_dim, "size of a head (default: 64)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--batch", o->batch, "sequences (default: 1)")->check(CLI::Range(1, 4096));
  command->add_option("--window", o->window, "keys in the window, own included (default: 64)")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--num-initial", o->num_initial, "initial positions (default: 3)")
      ->check(CLI::Range(0, 1 << 20));
  command->add_option("--stride", o->stride, "of fixed_stride (default: 6)")
      ->check(CLI::Range(1, 1 << 20));
  CLI::Option* density =
      command->add_option("--density", o->density, "share of separators (default: 0.16)")
          ->check(CLI::Range(0.0, 1.0));
  CLI::Option* tokenizer =
      command->add_option("--tokenizer", o->tokenizer, "tokenizer.json for --text");
  command->add_option("--text", o->text, "separators as in this text, instead of random ones")
      ->needs(tokenizer)
      ->excludes(density);
  AddDTypeOption(*command, o->dtype);
  command->add_option("--threads", o->threads, "threads (default: 1)")->check(CLI::Range(1, 1024));
  command->add_option("--repeats", o->repeats, "the median is reported (default: 9)")
      ->check(CLI::Range(1, 100000));
  command->footer(
      "Compares sampled queries and keys with a double reference before anything is timed.\n"
      "visited_pairs counts (query, key) pairs of the batch for one head; forward is 4 D and\n"
      "backward 10 D operations a pair and head. gflops_visited takes visited pairs, "
      "gflops_causal\n"
      "all j <= i; peak_share is gflops_visited over a loop of FMAs on registers.\n\n"
      "Example:\n  sepia bench attention --kind sep --seq 2048 --window 64 --threads 2");
  command->final_callback([o] { RunBenchAttention(*o); });
}

}  // namespace sepia::tools
