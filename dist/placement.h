// Where the launcher has put the ranks: what of it costs speed, and how to mend it.
#pragma once

#include <string>
#include <vector>

namespace sepia::dist {

struct RankPlace {
  std::string node;
  int threads = 1;        // that the rank computes with
  std::vector<int> cpus;  // that it may run on, ascending
  int node_cpus = 1;      // of the node
};

// Of this process.
RankPlace ThisRanksPlace(int threads);

// One line of text and back, for GatherTexts.
std::string Encode(const RankPlace& place);
RankPlace DecodeRankPlace(const std::string& text);

// One sentence a fault, with its remedy: ranks with more threads than processors of their own,
// nodes with more threads than processors, ranks bound to the same processors while others are
// free, unequal numbers of ranks. By rank.
std::vector<std::string> PlacementWarnings(const std::vector<RankPlace>& places);

// "3 ranks on a, 2 on b", in order of the first rank of each node.
std::string DescribeNodes(const std::vector<RankPlace>& places);

}  // namespace sepia::dist
