#include "tools/sepia/rank_check.h"

#include <algorithm>
#include <cstdlib>
#include <span>
#include <string>

#include <fmt/format.h>

#include "dist/gather.h"
#include "dist/launcher.h"
#include "dist/link_survey.h"
#include "dist/placement.h"
#include "kernels/gemm_peak.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/collective_workload.h"
#include "trainer/log_line.h"
#include "trainer/machine.h"

namespace sepia::tools {
namespace {

using dist::Communicator;

constexpr int64_t kLargeBytes = int64_t{16} << 20;
constexpr int kRepeats = 5;
// Below this share of the median, a rank or its node has a fault of its own.
constexpr double kSlowRank = 0.7;
// What Open MPI's shared memory needs of /dev/shm for a rank, with room to spare.
constexpr int64_t kSharedBytesPerRank = int64_t{16} << 20;

std::string Microseconds(double seconds) { return fmt::format("{:.0f} us", 1e6 * seconds); }
std::string Rate(double bytes_per_s) { return fmt::format("{:.2f} GB/s", bytes_per_s / 1e9); }

std::vector<std::string> NodesOfRanks(Communicator& world) {
  return dist::GatherTexts(world, dist::NodeName(), "doctor.nodes");
}

// Messages between the ranks of a node go through memory: whether MPI can have it.
void CheckSharedMemory(const std::vector<std::string>& nodes, std::vector<Finding>* findings) {
  const auto here = std::count(nodes.begin(), nodes.end(), nodes[0]);
  if (here < 2) return;
  const char* transports = std::getenv("OMPI_MCA_btl");
  const std::string list = transports == nullptr ? "" : transports;
  const bool named =
      list.find("vader") != std::string::npos || list.find("sm") != std::string::npos;
  if (!list.empty() && named == (list[0] == '^')) {
    findings->push_back({Verdict::kNote, "memory",
                         fmt::format("OMPI_MCA_btl={} leaves out shared memory: ranks of one node "
                                     "talk through the network stack; unset it or add vader",
                                     list)});
    return;
  }
  const int64_t free = trainer::FreeDiskBytes("/dev/shm");
  if (free >= 0 && free < here * kSharedBytesPerRank) {
    findings->push_back(
        {Verdict::kNote, "memory",
         fmt::format("{} free in /dev/shm for {} ranks; give the container more (--shm-size=1g)",
                     trainer::FormatBytes(free), here)});
  }
}

void DescribeAxis(const char* name, Communicator& axis, Communicator& world,
                  std::vector<Finding>* findings) {
  if (axis.size() == 1) {
    findings->push_back({Verdict::kGood, name, "one rank: sends nothing"});
    return;
  }
  CollectiveWorkload small(axis, trainer::CollectiveKind::kAllReduce, 4, DType::kFloat32);
  CollectiveWorkload large(axis, trainer::CollectiveKind::kAllReduce, kLargeBytes, DType::kFloat32);
  large.Verify();
  const double latency = Summarize(small.Measure(world, kRepeats)).median;
  const double seconds = Summarize(large.Measure(world, kRepeats)).median;
  const double busbw = static_cast<double>(large.bytes()) * large.BusFactor() / seconds;
  findings->push_back(
      {Verdict::kGood, name,
       fmt::format("{} ranks: {} a small all-reduce, {} busbw at {}", axis.size(),
                   Microseconds(latency), Rate(busbw), trainer::FormatBytes(large.bytes()))});
}

void DescribeLinks(const std::vector<dist::Link>& links, const std::vector<std::string>& nodes,
                   std::vector<Finding>* findings) {
  for (const bool same_node : {true, false}) {
    const dist::Link median = dist::MedianLink(links, same_node);
    if (median.bytes_per_s == 0) continue;
    const auto count = std::count_if(links.begin(), links.end(), [&](const dist::Link& link) {
      return link.same_node == same_node;
    });
    findings->push_back(
        {Verdict::kGood, same_node ? "in a node" : "across",
         fmt::format("{} and {} each way, median of {} pair{}", Microseconds(median.latency_s),
                     Rate(median.bytes_per_s), count, count == 1 ? "" : "s")});
  }
  for (const dist::Link& link : dist::SlowLinks(links)) {
    const double median = dist::MedianLink(links, link.same_node).bytes_per_s;
    findings->push_back(
        {Verdict::kNote, "slow link",
         fmt::format("rank {} on {} and rank {} on {}: {}, {:.0f} % of the median; check cable, "
                     "switch port and other jobs",
                     link.a, nodes[static_cast<size_t>(link.a)], link.b,
                     nodes[static_cast<size_t>(link.b)], Rate(link.bytes_per_s),
                     100 * link.bytes_per_s / median)});
  }
}

}  // namespace

std::vector<Finding> CheckPlacement(Communicator& world, int threads) {
  std::vector<Finding> findings;
  std::string version = dist::MpiLibraryVersion();
  version = version.substr(0, version.find(','));
  findings.push_back({Verdict::kGood, "MPI", version});
  std::vector<dist::RankPlace> places;
  const std::string own = dist::Encode(dist::ThisRanksPlace(threads));
  for (const std::string& text : dist::GatherTexts(world, own, "doctor.places")) {
    places.push_back(dist::DecodeRankPlace(text));
  }
  findings.push_back({Verdict::kGood, "ranks",
                      fmt::format("{}; {} thread{} each", dist::DescribeNodes(places),
                                  places[0].threads, places[0].threads == 1 ? "" : "s")});
  for (const std::string& warning : dist::PlacementWarnings(places)) {
    findings.push_back({Verdict::kNote, "placement", warning});
  }
  CheckSharedMemory(NodesOfRanks(world), &findings);
  return findings;
}

std::vector<Finding> CheckLinks(dist::Mesh& mesh) {
  std::vector<Finding> findings;
  Communicator& world = mesh.world();
  if (mesh.tensor().size() > 1) DescribeAxis("tensor", mesh.tensor(), world, &findings);
  DescribeAxis("data", mesh.data(), world, &findings);
  const std::vector<std::string> nodes = NodesOfRanks(world);
  const std::vector<int> members = dist::RanksToSurvey(nodes);
  DescribeLinks(dist::SurveyLinks(world, members, nodes), nodes, &findings);
  return findings;
}

std::vector<Finding> CheckSpeed(Communicator& world, int threads) {
  std::vector<Finding> findings;
  kernels::Context ctx;
  const std::vector<std::string> nodes = NodesOfRanks(world);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    world.Barrier("doctor.speed");
    const double own = kernels::MeasureGemmPeakGflops(dtype, threads);
    std::vector<double> all(static_cast<size_t>(world.size()));
    world
        .AllGather(ctx, ConstTensorView(&own, DType::kFloat64, {1}),
                   TensorView::Of(std::span(all), {world.size()}), "doctor.speed")
        .Wait();
    const Spread spread = Summarize(all);
    const std::string range =
        world.size() == 1
            ? ""
            : fmt::format(" a rank, all at work; {:.0f} to {:.0f}", spread.min, spread.max);
    findings.push_back(
        {Verdict::kGood, "speed",
         fmt::format("{} products at {:.0f} GFLOP/s on {} thread{}{}", DTypeName(dtype),
                     spread.median, threads, threads == 1 ? "" : "s", range)});
    for (size_t r = 0; r < all.size(); ++r) {
      if (all[r] >= kSlowRank * spread.median) continue;
      findings.push_back(
          {Verdict::kNote, "slow rank",
           fmt::format("rank {} on {}: {:.0f} GFLOP/s in {}; all ranks wait for the slowest: look "
                       "for other programs, fewer processors, heat",
                       r, nodes[r], all[r], DTypeName(dtype))});
    }
  }
  return findings;
}

}  // namespace sepia::tools
