// Which documents are for training, validation and test: GPT-NeoX v1.0's rule.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace sepia::data {

// train = [b[0], b[1]), valid = [b[1], b[2]), test = [b[2], b[3]).
using SplitBounds = std::array<int64_t, 4>;

// "969,30,1" or "90/5/5": shares of train, valid and test; fewer parts are filled with 0, more are
// cut off before normalising. Rounded half to even; all that rounding leaves over is taken from
// b[1], b[2], b[3] alike, so that the first split absorbs it and b[1] can come out negative.
// Reproduces GPT-NeoX's numbers even then. Throws UserError for text that is no such list.
SplitBounds NeoxSplitBounds(const std::string& split, int64_t num_documents);

// The same, but refuses negative bounds (UserError), on which GPT-NeoX would fail later.
SplitBounds SplitDocuments(const std::string& split, int64_t num_documents);

}  // namespace sepia::data
