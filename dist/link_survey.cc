#include "dist/link_survey.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <tuple>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"

namespace sepia::dist {
namespace {

constexpr size_t kMostSurveyed = 16;
constexpr int64_t kLargeBytes = int64_t{4} << 20;
constexpr int kLatencyCalls = 50;
constexpr int kBandwidthCalls = 3;
constexpr double kSlowShare = 0.5;

// Opponents of round `round` in a round robin of `players` (even; the circle method).
int Opponent(int player, int round, int players) {
  const int last = players - 1;
  if (player == last) return round;
  if (player == round) return last;
  return (2 * round - player + 2 * last) % last;
}

// Best of a few: other programs only ever make a link look slower.
template <typename Call>
double LeastSeconds(int calls, const Call& call) {
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < calls; ++i) {
    const Timer timer;
    call();
    least = std::min(least, timer.Seconds());
  }
  return least;
}

// latency, bytes a second
std::pair<double, double> MeasurePair(Communicator& pair) {
  kernels::Context ctx;
  float token = 0;
  const OwnedTensor own(DType::kUInt8, {kLargeBytes});
  const OwnedTensor both(DType::kUInt8, {2 * kLargeBytes});
  const auto exchange = [&] { pair.AllGather(ctx, own, both, "survey").Wait(); };
  const auto ping = [&] {
    pair.AllReduce(ctx, TensorView(&token, DType::kFloat32, {1}), ReduceOp::kSum, "survey").Wait();
  };
  exchange();  // connects, touches the pages
  const double latency = LeastSeconds(kLatencyCalls, ping);
  const double seconds = LeastSeconds(kBandwidthCalls, exchange);
  return {latency, static_cast<double>(kLargeBytes) / seconds};
}

}  // namespace

std::vector<Link> SurveyLinks(Communicator& world, const std::vector<int>& members,
                              const std::vector<std::string>& nodes) {
  CHECK(members.size() >= 2, "a survey of {} ranks", members.size());
  const int count = static_cast<int>(members.size());
  const int players = count + count % 2;  // an odd one out rests in each round
  const auto place = std::find(members.begin(), members.end(), world.rank());
  const int own = place == members.end() ? -1 : static_cast<int>(place - members.begin());
  kernels::Context ctx;
  std::vector<Link> links;
  for (int round = 0; round < players - 1; ++round) {
    const int other = own < 0 ? count : Opponent(own, round, players);
    const bool plays = own >= 0 && other < count;
    // Ranks that rest are groups of one.
    const int color = plays ? std::min(own, other) : count + world.rank();
    const std::unique_ptr<Communicator> pair = world.Split(color, world.rank(), "pair");
    std::vector<double> result(2, 0);
    if (plays) std::tie(result[0], result[1]) = MeasurePair(*pair);
    std::vector<double> all(2 * static_cast<size_t>(world.size()));
    world
        .AllGather(ctx, TensorView::Of(std::span(result), {2}),
                   TensorView::Of(std::span(all), {2 * world.size()}), "survey")
        .Wait();
    for (int i = 0; i < count; ++i) {
      const int j = Opponent(i, round, players);
      if (j >= count || j < i) continue;
      const auto a = static_cast<size_t>(members[static_cast<size_t>(i)]);
      const auto b = static_cast<size_t>(members[static_cast<size_t>(j)]);
      links.push_back({.a = static_cast<int>(a),
                       .b = static_cast<int>(b),
                       .same_node = nodes[a] == nodes[b],
                       .latency_s = std::max(all[2 * a], all[2 * b]),
                       .bytes_per_s = std::min(all[2 * a + 1], all[2 * b + 1])});
    }
  }
  return links;
}

std::vector<int> RanksToSurvey(const std::vector<std::string>& nodes) {
  std::vector<int> ranks;
  const bool all = nodes.size() <= kMostSurveyed;
  std::set<std::string> seen;
  for (size_t r = 0; r < nodes.size(); ++r) {
    if (seen.insert(nodes[r]).second || all) ranks.push_back(static_cast<int>(r));
  }
  for (size_t r = 1; ranks.size() < 2 && r < nodes.size(); ++r)
    ranks.push_back(static_cast<int>(r));
  return ranks;
}

Link MedianLink(const std::vector<Link>& links, bool same_node) {
  std::vector<Link> kind;
  for (const Link& link : links) {
    if (link.same_node == same_node) kind.push_back(link);
  }
  if (kind.empty()) return {.same_node = same_node};
  std::sort(kind.begin(), kind.end(),
            [](const Link& a, const Link& b) { return a.bytes_per_s < b.bytes_per_s; });
  Link median = kind[kind.size() / 2];
  std::sort(kind.begin(), kind.end(),
            [](const Link& a, const Link& b) { return a.latency_s < b.latency_s; });
  median.latency_s = kind[kind.size() / 2].latency_s;
  return median;
}

std::vector<Link> SlowLinks(const std::vector<Link>& links) {
  std::vector<Link> slow;
  for (const Link& link : links) {
    const Link median = MedianLink(links, link.same_node);
    if (link.bytes_per_s < kSlowShare * median.bytes_per_s) slow.push_back(link);
  }
  return slow;
}

}  // namespace sepia::dist
