// Suggestions for mistyped names in messages to people.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace sepia {

// "; did you mean \"window\"?" for the nearest of `known` by edit distance (swapped neighbours
// count once), or "" when nothing is near: more than a third of the letters, at least two, would
// change.
std::string DidYouMean(std::string_view given, std::span<const std::string> known);

}  // namespace sepia
