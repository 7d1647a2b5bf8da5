// sepia bench allreduce, reduce_scatter, all_gather: the links between ranks.
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "dist/gather.h"
#include "dist/launcher.h"
#include "dist/mesh.h"
#include "dist/thread_ranks.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/byte_size.h"
#include "tools/sepia/choice_option.h"
#include "tools/sepia/collective_workload.h"
#include "tools/sepia/ranks.h"

namespace sepia::tools {
namespace {

enum class Axis : uint8_t { kWorld, kData, kTensor };

struct Options {
  trainer::CollectiveKind kind;
  std::vector<int64_t> sizes;
  std::vector<DType> dtypes = {DType::kFloat32};
  Axis axis = Axis::kWorld;
  int tensor = 1;
  int repeats = 7;
  int thread_ranks = 1;
};

constexpr int64_t kSmallestSize = int64_t{1} << 10;
constexpr int64_t kLargestSize = int64_t{1} << 28;

dist::Communicator& GroupOf(dist::Mesh& mesh, Axis axis) {
  switch (axis) {
    case Axis::kData: return mesh.data();
    case Axis::kTensor: return mesh.tensor();
    case Axis::kWorld: break;
  }
  return mesh.world();
}

nlohmann::ordered_json MeasureSize(const Options& o, dist::Mesh& mesh, DType dtype, int64_t size) {
  dist::Communicator& group = GroupOf(mesh, o.axis);
  CollectiveWorkload workload(group, o.kind, size, dtype);
  const int64_t before = group.traffic().bytes_sent;
  workload.Verify();
  const Spread seconds = Summarize(workload.Measure(mesh.world(), o.repeats));
  const double algbw = static_cast<double>(workload.bytes()) / seconds.median / 1e9;
  nlohmann::ordered_json line = {{"bench", CollectiveName(o.kind)},
                                 {"size", workload.bytes()},
                                 {"dtype", std::string(DTypeName(dtype))},
                                 {"axis", group.name()},
                                 {"ranks", group.size()},
                                 {"world", mesh.world().size()},
                                 {"median_s", seconds.median},
                                 {"min_s", seconds.min},
                                 {"max_s", seconds.max},
                                 {"algbw", algbw},
                                 {"busbw", algbw * workload.BusFactor()},
                                 {"unit", "GB/s"}};
  if (group.traffic().bytes_sent == before) line["note"] = "a group of one rank sends nothing";
  return line;
}

// Collective.
void RunOnRanks(const Options& o, std::unique_ptr<dist::Communicator> world) {
  const bool threads = o.thread_ranks > 1;
  const std::vector<std::string> nodes = dist::GatherTexts(*world, dist::NodeName(), "bench");
  dist::Mesh mesh(std::move(world), o.tensor);
  for (const DType dtype : o.dtypes) {
    for (const int64_t size : o.sizes) {
      nlohmann::ordered_json line = MeasureSize(o, mesh, dtype, size);
      line["nodes"] = std::set(nodes.begin(), nodes.end()).size();
      line["over"] = threads ? "threads" : mesh.world().size() > 1 ? "mpi" : "nothing";
      if (mesh.world().rank() == 0) std::cout << line.dump() << std::endl;
    }
  }
}

void RunBenchCollective(const Options& o) {
  std::unique_ptr<dist::Communicator> world = JoinWorld();
  if (o.thread_ranks == 1) return RunOnRanks(o, std::move(world));
  if (world->size() > 1) throw UserError("--thread-ranks is for one process, without mpirun");
  dist::RunThreadRanks(o.thread_ranks, [&](std::unique_ptr<dist::Communicator> threads) {
    RunOnRanks(o, std::move(threads));
  });
}

std::vector<int64_t> DefaultSizes() {
  std::vector<int64_t> sizes;
  for (int64_t size = kSmallestSize; size <= kLargestSize; size *= 4) sizes.push_back(size);
  return sizes;
}

void AddSizesOption(CLI::App& command, std::vector<int64_t>& sizes) {
  const auto set = [&sizes](const std::vector<std::string>& given) {
    sizes.clear();
    for (const std::string& text : given) sizes.push_back(ParseByteSize(text).value());
  };
  const auto check = [](const std::string& text) {
    return ParseByteSize(text) ? std::string()
                               : fmt::format("\"{}\" is not a size such as 64KiB", text);
  };
  command
      .add_option_function<std::vector<std::string>>(
          "--sizes", set, "bytes, e.g. 1KiB,1MiB (default: 1KiB to 256MiB in steps of 4)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check, "SIZE"));
}

void AddCommand(CLI::App& bench, trainer::CollectiveKind kind, const std::string& description) {
  auto o = std::make_shared<Options>(Options{.kind = kind, .sizes = DefaultSizes()});
  CLI::App* command = bench.add_subcommand(CollectiveName(kind), description);
  AddSizesOption(*command, o->sizes);
  AddDTypesOption(*command, o->dtypes);
  AddChoiceOption<Axis>(*command, "--axis", o->axis,
                        {{"world", Axis::kWorld}, {"data", Axis::kData}, {"tensor", Axis::kTensor}},
                        "ranks that take part; all groups run at once (default: world)");
  command->add_option("--tensor", o->tensor, "size of a tensor group, for --axis")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  AddRepeatsOption(*command, o->repeats);
  command->add_option("--thread-ranks", o->thread_ranks, "ranks as threads, without mpirun")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  command->footer(fmt::format(
      "Checks every element first. Sizes and bandwidths are those of nccl-tests: size is that of\n"
      "the whole tensor, algbw = size / time, busbw = algbw x {}(n-1)/n, both in 1e9 bytes a\n"
      "second. A time is that of the slowest rank.\n\n"
      "Example:\n  mpirun -n 8 --hostfile hosts sepia bench {} --axis data --tensor 2",
      kind == trainer::CollectiveKind::kAllReduce ? "2 " : "", CollectiveName(kind)));
  command->final_callback([o] { RunBenchCollective(*o); });
}

}  // namespace

void AddBenchCollectiveCommands(CLI::App& bench) {
  AddCommand(bench, trainer::CollectiveKind::kAllReduce, "sums over ranks, per size");
  AddCommand(bench, trainer::CollectiveKind::kReduceScatter,
             "sums over ranks, a slice for each, per size");
  AddCommand(bench, trainer::CollectiveKind::kAllGather,
             "every rank's slice to all ranks, per size");
}

}  // namespace sepia::tools
