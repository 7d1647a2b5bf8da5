// A short name for the content of a dataset.
#pragma once

#include <string>

#include "data/indexed_dataset.h"

namespace sepia::data {

// SHA-256 of the type and counts, the first and last MiB of the .idx and 64 evenly spaced blocks of
// 4 KiB of the .bin (the first and the last among them): milliseconds for any size. Tells datasets
// apart and notices re-tokenised text; a flipped byte in a large .bin mostly escapes it, which is
// what `sepia data verify --write-digest` is for. 64 hexadecimal digits.
std::string DatasetDigest(const IndexedDataset& dataset);

}  // namespace sepia::data
