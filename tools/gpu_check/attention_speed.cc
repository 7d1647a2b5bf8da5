#include <algorithm>
#include <functional>

#include <fmt/format.h>

#include "base/attention_index.h"
#include "kernels/cuda/dnn.h"
#include "kernels/cuda/sep_attention.h"
#include "tools/gpu_check/speed_checks.h"

namespace sepia::tools::gpu_check {
namespace {

using namespace kernels::cuda;  // NOLINT: the device's interface

struct Times {
  double forward_ms, backward_ms;
  double total() const { return forward_ms + backward_ms; }
};

class AttentionRun {
 public:
  AttentionRun(const SepAttentionSize& size, int repetitions)
      : size_(size), repetitions_(repetitions) {
    const auto elements =
        static_cast<size_t>(size.batch_size * size.seq_length * size.num_heads * size.head_dim);
    qkv_ = Filled(6 * elements);
    out_ = Filled(2 * elements);
    dout_ = Filled(2 * elements);
    dqkv_ = Filled(6 * elements);
    lse_ = Filled(4 * elements / static_cast<size_t>(size.head_dim));
  }

  template <typename Attention>
  Times Measure(Attention& attention) {
    const DeviceMemory scratch(attention.ScratchBytes());
    const SepAttentionTensors tensors = {.qkv = qkv_.data<void>(),
                                         .out = out_.data<void>(),
                                         .lse = lse_.data<float>(),
                                         .dout = dout_.data<void>(),
                                         .dqkv = dqkv_.data<void>()};
    return {Median([&] { attention.Forward(stream_, tensors, scratch.data<void>()); }),
            Median([&] { attention.Backward(stream_, tensors, scratch.data<void>()); })};
  }
  Stream& stream() { return stream_; }

 private:
  // 0x3c3c: about 0.01 in bf16.
  DeviceMemory Filled(size_t num_bytes) {
    DeviceMemory memory(num_bytes);
    SetBytes(stream_, memory.data<void>(), 0x3c, num_bytes);
    return memory;
  }

  double Median(const std::function<void()>& work) {
    work();
    std::vector<double> times;
    for (int i = 0; i < repetitions_; ++i) {
      Event begin, end;
      begin.Record(stream_);
      work();
      end.Record(stream_);
      times.push_back(end.MillisecondsSince(begin));
    }
    std::nth_element(times.begin(), times.begin() + repetitions_ / 2, times.end());
    return times[static_cast<size_t>(repetitions_ / 2)];
  }

  SepAttentionSize size_;
  int repetitions_;
  Stream stream_;
  DeviceMemory qkv_, out_, dout_, dqkv_, lse_;
};

std::string Describe(const Times& times, const Times& sep) {
  return fmt::format("{:.3f} ms forward, {:.3f} ms backward; {:.2f} of Sep-Attention's time",
                     times.forward_ms, times.backward_ms, times.total() / sep.total());
}

}  // namespace

std::vector<Finding> MeasureAttention(const SpeedSizes& sizes) {
  std::vector<Finding> findings;
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t seq : sizes.seqs) {
      const int64_t batch = std::max<int64_t>(1, sizes.tokens / seq);
      const std::string where =
          fmt::format("D={} T={} B={} H={}", head_dim, seq, batch, sizes.heads);
      SepAttentionSize size = {DType::kBFloat16, batch, seq, sizes.heads, head_dim, 64};
      std::vector<int32_t> tokens(static_cast<size_t>(batch * seq));
      for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i * 2654435761u % 6 == 0 ? 1 : 0;
      Times sep = {};
      const auto measure = [&](const char* name, const std::function<Times(AttentionRun&)>& run) {
        Finding finding = {
            .group = "speed", .name = fmt::format("{} {}", name, where), .detail = ""};
        try {
          AttentionRun work(size, sizes.repetitions);
          const Times times = run(work);
          if (sep.total() == 0) sep = times;
          finding.ok = true;
          finding.detail = Describe(times, sep);
        } catch (const std::exception& error) {
          finding.detail = error.what();
        }
        findings.push_back(finding);
      };
      const auto own = [&](const AttentionIndexSpec& spec) {
        return [&, spec](AttentionRun& work) {
          const AttentionIndex index(tokens, batch, seq, spec);
          const DeviceAttentionIndex on_device(work.stream(), index);
          const SepAttention attention(size, on_device, false);
          return work.Measure(attention);
        };
      };
      measure("Sep-Attention",
              own({.kind = AttentionKind::kSep, .num_initial = 3, .separator_ids = {1}}));
      size.window = seq;
      measure("own kernel, dense", own({}));
      for (const bool deterministic : {false, true}) {
        measure(deterministic ? "cuDNN, deterministic" : "cuDNN, not deterministic",
                [&](AttentionRun& work) {
                  DnnAttention attention(size, {.deterministic = deterministic,
                                                .max_workspace_bytes = int64_t{8} << 30});
                  return work.Measure(attention);
                });
      }
    }
  }
  return findings;
}

}  // namespace sepia::tools::gpu_check
