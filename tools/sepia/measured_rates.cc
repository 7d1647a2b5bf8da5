#include "tools/sepia/measured_rates.h"

#include <algorithm>
#include <barrier>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/attention_index.h"
#include "base/buffer.h"
#include "dist/thread_ranks.h"
#include "kernels/gemm_peak.h"
#include "kernels/lm_head.h"
#include "kernels/sep_attention.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/bench_text.h"
#include "tools/sepia/collective_workload.h"
#include "tools/sepia/linear_workload.h"
#include "tools/sepia/random_tensor.h"
#include "tools/sepia/step_workload.h"
#include "trainer/machine.h"
#include "trainer/step_work.h"

namespace sepia::tools {
namespace {

using trainer::Hardware;
using trainer::StepWork;
using trainer::TrainSettings;

constexpr int kRepeats = 3;
constexpr int64_t kMostLayers = 2;
constexpr int64_t kMostWidth = 1024;
constexpr int64_t kMostTokens = 2048;
// Wide models: products of the head reach their speed long before the whole vocabulary.
constexpr int64_t kWideWidth = 512;
constexpr int64_t kMostWideVocabulary = 16384;
constexpr int64_t kLargeMessage = int64_t{16} << 20;
constexpr int kMostLinked = 8;  // ranks of the all-reduce that measures links
// Elementwise work is what the other parts leave of a step; at least this share of it.
constexpr double kLeastElementwise = 0.02;
// Program, libraries and MPI's buffers.
constexpr int64_t kReservedBytes = int64_t{128} << 20;
// Ethernet of 10 Gbit/s, where nothing else is said.
constexpr trainer::LinkRates kAssumedNetwork = {.bytes_per_s = 1.25e9, .latency_s = 50e-6};

// The same model cut to a few layers, and to a width whose rates those of larger ones resemble.
TrainSettings StandIn(const TrainSettings& settings) {
  TrainSettings s = settings;
  model::ModelConfig& m = s.model;
  if (m.hidden_size > kMostWidth) {
    const int64_t head_dim = m.head_dim();
    const int64_t ratio = m.intermediate_size / m.hidden_size;
    m.num_heads = std::max<int64_t>(1, kMostWidth / head_dim);
    m.hidden_size = m.num_heads * head_dim;
    m.intermediate_size = std::max<int64_t>(1, ratio) * m.hidden_size;
  }
  if (m.hidden_size > kWideWidth) m.vocab_size = std::min(m.vocab_size, kMostWideVocabulary);
  std::erase_if(m.separator_ids, [&](int32_t id) { return id >= m.vocab_size; });
  const int64_t layers = std::min(m.num_layers, kMostLayers);
  // The last ones: a hybrid's full layers come first.
  m.attention.erase(m.attention.begin(), m.attention.end() - layers);
  m.num_layers = layers;
  s.data.sequence_length = std::min(s.data.sequence_length, kMostTokens);
  s.batch.micro = s.batch.global = 1;
  s.recompute = false;
  s.parallel = {};
  return s;
}

double MedianSeconds(const std::function<void()>& run) {
  run();  // touches pages, fills caches of products
  std::vector<double> seconds;
  for (int i = 0; i < kRepeats; ++i) seconds.push_back(TimeOnce(run));
  return Summarize(seconds).median;
}

// Seconds of the parts of one step of the stand-in.
struct PartSeconds {
  double linear = 0, head = 0, attention = 0, rest = 0, optimizer = 0;
  double peak_gflops = 0;
};

class Measurement {
 public:
  Measurement(const TrainSettings& settings, double density)
      : s_(settings),
        m_(s_.model),
        tokens_(
            RandomTokens(s_.data.sequence_length + 1, m_.vocab_size, m_.separator_ids, density)) {}

  // `sync` returns when all that measure have called it.
  PartSeconds Run(const std::function<void()>& sync) {
    PartSeconds seconds;
    sync();
    seconds.peak_gflops = kernels::MeasureGemmPeakGflops(s_.compute_dtype(), s_.threads);
    sync();
    seconds.linear = Linear();
    sync();
    seconds.head = Head();
    sync();
    seconds.attention = Attention();
    sync();
    const StepSeconds step = Step();
    const double passes = step.forward + step.backward;
    seconds.rest = std::max(kLeastElementwise * passes,
                            passes - seconds.linear - seconds.head - seconds.attention);
    seconds.optimizer = step.optimizer;
    sync();
    return seconds;
  }

 private:
  double Linear() {
    double seconds = 0;
    for (const LinearLayer& layer : LinearLayersOfStep(m_, s_.data.sequence_length)) {
      if (layer.name == "embed_out") continue;  // the head, measured with its loss
      LinearWorkload workload(layer, s_.compute_dtype(), s_.threads);
      seconds += static_cast<double>(layer.count) * MedianSeconds([&] {
                   workload.Forward();
                   workload.Backward();
                 });
    }
    return seconds;
  }

  double Head() {
    const int64_t rows = s_.data.sequence_length;
    const DType dtype = s_.compute_dtype();
    const OwnedTensor x = RandomTensor("x", dtype, {rows, m_.hidden_size});
    const OwnedTensor w = RandomTensor("w", dtype, {m_.vocab_size, m_.hidden_size});
    const OwnedTensor dx(dtype, {rows, m_.hidden_size});
    const OwnedTensor dw(DType::kFloat32, {m_.vocab_size, m_.hidden_size});
    const kernels::Weight weight{.canonical = w};
    double loss = 0;
    float scale = 1.0f / static_cast<float>(rows);
    Arena scratch("scratch", kernels::LmHeadScratchBytes(rows, m_.hidden_size, m_.vocab_size, dtype,
                                                         s_.threads));
    kernels::Context ctx{.num_threads = s_.threads, .scratch = &scratch};
    return MedianSeconds([&] {
      kernels::LmHeadLoss(ctx, {.x = x,
                                .weight = weight,
                                .targets = ConstTensorView(tokens_.data(), DType::kInt32, {rows}),
                                .loss_mask = {},
                                .loss_sum = TensorView(&loss, DType::kFloat64, {1}),
                                .loss_mode = GradMode::kOverwrite,
                                .grad_scale = ConstTensorView(&scale, DType::kFloat32, {1}),
                                .dx = dx,
                                .dweight = dw});
    });
  }

  double Attention() {
    double seconds = 0;
    for (const model::LayerAttention& layer : m_.attention) seconds += Attention(layer);
    return seconds;
  }

  double Attention(const model::LayerAttention& layer) {
    const int64_t length = s_.data.sequence_length;
    const DType dtype = s_.compute_dtype();
    const Shape shape{1, length, m_.num_heads, m_.head_dim()};
    const OwnedTensor qkv = RandomTensor("qkv", dtype, {1, length, m_.num_heads, 3, m_.head_dim()});
    const OwnedTensor dout = RandomTensor("dout", dtype, shape);
    const OwnedTensor out(dtype, shape), dqkv(dtype, qkv.view().shape());
    const OwnedTensor lse(DType::kFloat32, {1, m_.num_heads, length});
    const std::vector<int32_t> tokens(tokens_.begin(), tokens_.end() - 1);
    const bool full = layer.kind == AttentionKind::kFull;
    const AttentionIndex index(tokens, 1, length,
                               {layer.kind, layer.num_initial, layer.stride, m_.separator_ids});
    Arena scratch("scratch", kernels::SepAttentionScratchBytes(
                                 {1, length, m_.num_heads, m_.head_dim(), dtype, s_.threads}));
    kernels::Context ctx{.num_threads = s_.threads, .scratch = &scratch};
    return MedianSeconds([&] {
      kernels::SepAttentionForward(ctx, {.qkv = qkv,
                                         .index = full ? nullptr : &index,
                                         .window = full ? length : layer.window,
                                         .out = out,
                                         .lse = lse});
      kernels::SepAttentionBackward(ctx, {.qkv = qkv,
                                          .index = full ? nullptr : &index,
                                          .window = full ? length : layer.window,
                                          .out = out,
                                          .lse = lse,
                                          .dout = dout,
                                          .dqkv = dqkv});
    });
  }

  StepSeconds Step() {
    StepWorkload workload(s_, tokens_);
    workload.Run();
    std::vector<double> forward, backward, optimizer;
    for (int i = 0; i < kRepeats; ++i) {
      const StepSeconds seconds = workload.Run();
      forward.push_back(seconds.forward);
      backward.push_back(seconds.backward);
      optimizer.push_back(seconds.optimizer);
    }
    return {.forward = Summarize(forward).median,
            .backward = Summarize(backward).median,
            .optimizer = Summarize(optimizer).median};
  }

  const TrainSettings& s_;
  const model::ModelConfig& m_;
  const std::vector<int32_t> tokens_;
};

// Means over `workers` measurements that run at the same time.
PartSeconds MeasureTogether(const TrainSettings& settings, int workers, double density) {
  std::barrier<> barrier(workers);
  std::mutex mutex;  // of sum and error
  PartSeconds sum;
  std::exception_ptr error;
  std::vector<std::thread> threads;
  for (int i = 0; i < workers; ++i) {
    threads.emplace_back([&] {
      try {
        const PartSeconds seconds =
            Measurement(settings, density).Run([&] { barrier.arrive_and_wait(); });
        const std::lock_guard lock(mutex);
        for (const auto part :
             {&PartSeconds::linear, &PartSeconds::head, &PartSeconds::attention, &PartSeconds::rest,
              &PartSeconds::optimizer, &PartSeconds::peak_gflops}) {
          sum.*part += seconds.*part / workers;
        }
      } catch (...) {
        barrier.arrive_and_drop();
        const std::lock_guard lock(mutex);
        error = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
  return sum;
}

// Between threads: as MPI's shared memory, a copy by the processors that also compute.
trainer::LinkRates MeasureLink(int ranks) {
  trainer::LinkRates rates;
  dist::RunThreadRanks(ranks, [&](std::unique_ptr<dist::Communicator> world) {
    const auto seconds = [&](int64_t bytes) {
      CollectiveWorkload workload(*world, trainer::CollectiveKind::kAllReduce, bytes,
                                  DType::kFloat32);
      return std::pair(Summarize(workload.Measure(*world, kRepeats)).median, workload.bytes());
    };
    const double small = seconds(4).first;
    const auto [large, bytes] = seconds(kLargeMessage);
    if (world->rank() != 0) return;
    const int64_t sent = trainer::BytesSent(trainer::CollectiveKind::kAllReduce, bytes, ranks);
    rates = {.bytes_per_s = static_cast<double>(sent) / large, .latency_s = small};
  });
  return rates;
}

}  // namespace

Hardware MeasureThisMachine(const TrainSettings& settings, int ranks, double density) {
  const trainer::MachineFacts machine = trainer::ReadMachine();
  const TrainSettings stand_in = StandIn(settings);
  const int workers = std::clamp(machine.usable_cpus / settings.threads, 1, ranks);
  // More ranks than that take turns.
  const double share = static_cast<double>(workers) / ranks;
  const PartSeconds seconds = MeasureTogether(stand_in, workers, density);
  const StepWork work = WorkOfRank(stand_in, /*data_ranks=*/1, density);
  Hardware hardware{.name = "cpu", .measured = true};
  hardware.linear_flops = share * work.linear.flops / seconds.linear;
  hardware.head_flops = share * work.head.flops / seconds.head;
  hardware.attention_flops = share * work.attention.flops / seconds.attention;
  hardware.elementwise_bytes = share * work.elementwise.bytes / seconds.rest;
  hardware.optimizer_bytes = share * work.optimizer.bytes / seconds.optimizer;
  hardware.peak_flops = share * 1e9 * seconds.peak_gflops;
  hardware.memory_bytes = machine.memory_bytes() / ranks;
  hardware.reserved_bytes = kReservedBytes;
  if (ranks > 1) {
    hardware.in_node =
        MeasureLink(std::min(ranks, std::clamp(machine.usable_cpus, 2, kMostLinked)));
  }
  hardware.across_nodes = kAssumedNetwork;
  // In a node the processors copy; on a network they mostly wait.
  hardware.overlap_in_node = 0;
  hardware.overlap_across_nodes = 1;
  hardware.sources = {fmt::format(
      "{}: {} of {} processors; rates of {} layer{} of width {} on {} tokens, {} rank{} "
      "x {} thread{} at the same time",
      machine.cpu, machine.usable_cpus, machine.logical_cpus, stand_in.model.num_layers,
      stand_in.model.num_layers == 1 ? "" : "s", stand_in.model.hidden_size,
      stand_in.data.sequence_length, workers, workers == 1 ? "" : "s", settings.threads,
      settings.threads == 1 ? "" : "s")};
  if (workers < ranks) {
    hardware.sources.push_back(
        fmt::format("{} ranks x {} threads are more than its processors: rates divided by {:.3g}",
                    ranks, settings.threads, 1 / share));
  }
  return hardware;
}

}  // namespace sepia::tools
