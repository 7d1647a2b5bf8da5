// Short facts that ranks tell each other: names, digests, error messages. Collective.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dist/communicator.h"

namespace sepia::dist {

// Every rank's text, by rank.
std::vector<std::string> GatherTexts(Communicator& group, std::string_view text,
                                     std::string_view label);

// Rank `root`'s text.
std::string BroadcastText(Communicator& group, std::string text, int root, std::string_view label);

// "2", "1 and 3", "0, 1 and 3".
std::string JoinRanks(const std::vector<int>& ranks);

// The ranks whose text is not the most frequent one (of equally frequent ones: the one that comes
// first by rank). Empty when all agree.
std::vector<int> RanksThatDiffer(const std::vector<std::string>& texts);

}  // namespace sepia::dist
