// "did you mean": the name a person probably wanted.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace sepia {

// The candidate with the smallest edit distance to `name` (insert, delete, replace or swap two
// neighbours; case costs nothing), or "" when none is near: at most a third of the letters differ
// (two of five), or one contains the other. Ties: the first.
std::string ClosestName(std::string_view name, std::span<const std::string> candidates);

// `; did you mean "x"?`, or "" when nothing is near.
std::string DidYouMean(std::string_view name, std::span<const std::string> candidates);

}  // namespace sepia
