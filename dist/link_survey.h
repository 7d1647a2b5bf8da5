// How fast pairs of ranks exchange data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dist/communicator.h"

namespace sepia::dist {

struct Link {
  int a = 0, b = 0;  // ranks, a < b
  bool same_node = true;
  double latency_s = 0;    // of the smallest exchange, both ways at once
  double bytes_per_s = 0;  // each way, both ways at once
};

// Measures every pair of `members` (ranks of `world`, the same on all, at least two), disjoint
// pairs at the same time, as a round robin. Collective over `world`; the same links on all ranks.
std::vector<Link> SurveyLinks(Communicator& world, const std::vector<int>& members,
                              const std::vector<std::string>& nodes);

// All of up to 16 ranks; of more the first rank of each node, of one node its first two.
std::vector<int> RanksToSurvey(const std::vector<std::string>& nodes);

// Links of less than half the median bandwidth of their kind (inside a node, between nodes).
std::vector<Link> SlowLinks(const std::vector<Link>& links);

// The median link of a kind; bytes_per_s 0 where there is none.
Link MedianLink(const std::vector<Link>& links, bool same_node);

}  // namespace sepia::dist
