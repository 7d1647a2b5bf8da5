// The .bin file or files of a dataset.
#pragma once

#include <string>
#include <vector>

namespace sepia::data {

// `prefix`.bin if it exists, else the shards `prefix`-00000-of-NNNNN.bin in order. EleutherAI's
// releases put the last number, not the count, after "of"; both are accepted. Throws kBadData when
// nothing is there, or a shard is missing.
std::vector<std::string> FindBinFiles(const std::string& prefix);

}  // namespace sepia::data
