#include "dist/placement.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>

#include "dist/gather.h"
#include "dist/launcher.h"

namespace sepia::dist {
namespace {

// The ranks of one node.
struct Node {
  std::string name;
  std::vector<int> ranks = {};
  std::set<int> cpus = {};  // that any of them may use
  int threads = 0;          // of all of them
  int size = 1;             // processors, used or not
};

std::vector<Node> Nodes(const std::vector<RankPlace>& places) {
  std::vector<Node> nodes;
  for (size_t r = 0; r < places.size(); ++r) {
    const RankPlace& place = places[r];
    const auto same = [&](const Node& node) { return node.name == place.node; };
    auto node = std::find_if(nodes.begin(), nodes.end(), same);
    if (node == nodes.end()) node = nodes.insert(nodes.end(), Node{.name = place.node});
    node->ranks.push_back(static_cast<int>(r));
    node->cpus.insert(place.cpus.begin(), place.cpus.end());
    node->threads += place.threads;
    node->size = std::max(node->size, place.node_cpus);
  }
  return nodes;
}

std::string Plural(size_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string RanksOn(const std::vector<int>& ranks, const std::string& node) {
  return fmt::format("rank{} {} on {}", ranks.size() == 1 ? "" : "s", JoinRanks(ranks), node);
}

void WarnOfTightBinding(const std::vector<RankPlace>& places, const Node& node,
                        std::vector<std::string>* warnings) {
  std::map<std::pair<int, size_t>, std::vector<int>> tight;  // by threads and processors
  for (const int r : node.ranks) {
    const RankPlace& place = places[static_cast<size_t>(r)];
    const auto cpus = place.cpus.size();
    if (static_cast<size_t>(place.threads) > cpus) tight[{place.threads, cpus}].push_back(r);
  }
  for (const auto& [sizes, ranks] : tight) {
    const auto& [threads, cpus] = sizes;
    warnings->push_back(fmt::format(
        "{}: {} threads a rank on {} of its own; mpirun binds ranks to cores: add --bind-to none, "
        "or --map-by slot:PE={}",
        RanksOn(ranks, node.name), threads, Plural(cpus, "processor"), threads));
  }
}

void WarnOfSharing(const std::vector<RankPlace>& places, const Node& node,
                   std::vector<std::string>* warnings) {
  if (static_cast<size_t>(node.threads) > node.cpus.size()) {
    const size_t share = std::max<size_t>(1, node.cpus.size() / node.ranks.size());
    const bool fits = node.ranks.size() <= node.cpus.size();
    warnings->push_back(fmt::format(
        "{}: {} compute with {} on {}, so that collectives wait for ranks that do not run; {}",
        node.name, Plural(node.ranks.size(), "rank"),
        Plural(static_cast<size_t>(node.threads), "thread"), Plural(node.cpus.size(), "processor"),
        fits ? fmt::format("set OMP_NUM_THREADS={} (threads: {} in the config)", share, share)
             : fmt::format("start at most {} there", Plural(node.cpus.size(), "rank"))));
    return;
  }
  // Enough processors for all, but some ranks are bound to the same ones.
  std::map<std::vector<int>, std::vector<int>> bound;
  for (const int r : node.ranks) bound[places[static_cast<size_t>(r)].cpus].push_back(r);
  for (const auto& [cpus, ranks] : bound) {
    int threads = 0;
    for (const int r : ranks) threads += places[static_cast<size_t>(r)].threads;
    if (ranks.size() < 2 || static_cast<size_t>(threads) <= cpus.size()) continue;
    warnings->push_back(fmt::format(
        "{} are bound to the same {}; start them with one mpirun, or add --bind-to none",
        RanksOn(ranks, node.name), Plural(cpus.size(), "processor")));
  }
}

void WarnOfUnequalNodes(const std::vector<Node>& nodes, const std::vector<RankPlace>& places,
                        std::vector<std::string>* warnings) {
  for (const Node& node : nodes) {
    if (node.ranks.size() == nodes.front().ranks.size()) continue;
    warnings->push_back(
        fmt::format("{}: nodes hold different numbers of ranks; tensor groups must divide each of "
                    "them, and links are shared unevenly",
                    DescribeNodes(places)));
    return;
  }
}

}  // namespace

RankPlace ThisRanksPlace(int threads) {
  RankPlace place{.node = NodeName(), .threads = threads, .cpus = {}, .node_cpus = 1};
  place.node_cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) place.cpus.push_back(cpu);
    }
  }
  return place;
}

std::string Encode(const RankPlace& place) {
  return fmt::format("{} {} {} {}", place.node, place.threads, place.node_cpus,
                     fmt::join(place.cpus, " "));
}

RankPlace DecodeRankPlace(const std::string& text) {
  RankPlace place;
  std::istringstream in(text);
  in >> place.node >> place.threads >> place.node_cpus;
  for (int cpu = 0; in >> cpu;) place.cpus.push_back(cpu);
  return place;
}

std::vector<std::string> PlacementWarnings(const std::vector<RankPlace>& places) {
  std::vector<std::string> warnings;
  const std::vector<Node> nodes = Nodes(places);
  for (const Node& node : nodes) {
    WarnOfTightBinding(places, node, &warnings);
    WarnOfSharing(places, node, &warnings);
  }
  WarnOfUnequalNodes(nodes, places, &warnings);
  return warnings;
}

std::string DescribeNodes(const std::vector<RankPlace>& places) {
  std::string text;
  for (const Node& node : Nodes(places)) {
    text += text.empty() ? Plural(node.ranks.size(), "rank") + " on " + node.name
                         : fmt::format(", {} on {}", node.ranks.size(), node.name);
  }
  return text;
}

}  // namespace sepia::dist
