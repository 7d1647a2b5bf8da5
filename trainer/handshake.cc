#include "trainer/handshake.h"

#include <sched.h>

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "dist/agreement.h"
#include "dist/gather.h"
#include "dist/launcher.h"
#include "model/parameters.h"
#include "trainer/machine.h"
#include "trainer/memory_plan.h"

namespace sepia::trainer {
namespace {

int AllowedProcessors() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 0;
  return CPU_COUNT(&allowed);
}

// How much slower a rank may be bound than the others is a person's decision: no error.
void WarnAboutBinding(dist::Communicator& world, int threads) {
  const int processors = AllowedProcessors();
  const std::vector<std::string> texts = GatherTexts(
      world, fmt::format("{} threads on {} processors", threads, processors), "thread binding");
  const std::vector<std::string> nodes = GatherTexts(world, dist::NodeName(), "node names");
  const std::vector<std::string> short_of =
      GatherTexts(world, processors > 0 && processors < threads ? "x" : "", "processors");
  if (world.rank() != 0) return;
  const std::vector<int> odd = dist::RanksThatDiffer(texts);
  if (!odd.empty()) {
    const auto first = static_cast<size_t>(odd.front());
    const size_t usual = first == 0 ? texts.size() - 1 : 0;
    LogWarn("thread binding differs between ranks: rank {} (on {}) has {}, rank {} (on {}) has {}",
            first, nodes[first], texts[first], usual, nodes[usual], texts[usual]);
  }
  const auto bound = std::find(short_of.begin(), short_of.end(), "x") - short_of.begin();
  if (bound < world.size()) {
    const auto r = static_cast<size_t>(bound);
    LogWarn("rank {} (on {}) has {}; start with mpirun --bind-to none, or --map-by slot:PE={}",
            bound, nodes[r], texts[r], threads);
  }
}

std::string TryGroup(dist::Communicator& group) {
  kernels::Context ctx;
  double sum = group.rank() + 1;
  const Timer timer;
  const TensorView view(&sum, DType::kFloat64, {1});
  group.AllReduce(ctx, view, dist::ReduceOp::kSum, "trial").Wait();
  const double expected = 0.5 * group.size() * (group.size() + 1);
  CHECK(sum == expected, "the {} group of {} ranks adds up to {}, not {}", group.name(),
        group.size(), sum, expected);
  return fmt::format("{} group of {} rank{}: all-reduce in {:.3f} ms", group.name(), group.size(),
                     group.size() == 1 ? "" : "s", 1000 * timer.Seconds());
}

}  // namespace

std::string ParameterTableDigest(const model::ModelConfig& model) {
  std::string text;
  const model::ParameterTable table(model);
  for (const model::ParamSpec& spec : table.specs()) {
    text += fmt::format("{} {} {}\n", spec.hf_name, spec.shape, static_cast<int>(spec.placement));
  }
  return fmt::format("{} parameters, SHA-256 {}", table.specs().size(), Sha256Hex(text));
}

void CompareRanks(dist::Communicator& world, const TrainSettings& settings) {
  if (world.size() == 1) return;
  dist::RequireSame(world, {.what = "the parameter table",
                            .value = ParameterTableDigest(settings.model),
                            .remedy = "give every rank the same config and build"});
  WarnAboutBinding(world, NumThreads(settings));
}

void RequireMemoryOfRanks(dist::Mesh& mesh, const TrainSettings& settings) {
  if (settings.device != Device::kCpu) return;
  dist::Communicator& world = mesh.world();
  const std::string node = dist::NodeName();
  const std::vector<std::string> nodes = GatherTexts(world, node, "node names");
  const auto ranks = std::count(nodes.begin(), nodes.end(), node);
  const int64_t bytes = PlanMemory(settings, mesh.data().size()).total();
  dist::Agree(world, [&] {
    RequireMemory(ranks * bytes, fmt::format("{} rank{} on {}", ranks, ranks == 1 ? "" : "s", node),
                  "`sepia check` lists what batch.micro and recompute would save; fewer ranks a "
                  "node and a shorter data.sequence_length take less, too");
  });
}

std::vector<std::string> TryGroups(dist::Mesh& mesh) {
  return {TryGroup(mesh.world()), TryGroup(mesh.data()), TryGroup(mesh.tensor())};
}

}  // namespace sepia::trainer
