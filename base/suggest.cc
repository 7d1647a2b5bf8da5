#include "base/suggest.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <vector>

#include <fmt/core.h>

namespace sepia {
namespace {

// Longer names are never near anything; bounds the work on hostile input.
constexpr size_t kMaxLength = 64;

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

// Restricted Damerau-Levenshtein distance.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({replace, previous[j] + 1, current[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], before[j - 2] + 1);
      }
    }
    before.swap(previous);
    previous.swap(current);
  }
  return previous[b.size()];
}

bool Contains(const std::string& a, const std::string& b) {
  return std::min(a.size(), b.size()) >= 3 &&
         (a.find(b) != std::string::npos || b.find(a) != std::string::npos);
}

}  // namespace

std::string ClosestName(std::string_view name, std::span<const std::string> candidates) {
  if (name.empty() || name.size() > kMaxLength) return {};
  const std::string wanted = Lower(name);
  std::string best;
  size_t best_distance = kMaxLength;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kMaxLength) continue;
    const std::string other = Lower(candidate);
    const size_t distance = EditDistance(wanted, other);
    const size_t length = std::max(wanted.size(), other.size());
    const size_t limit = length == 5 ? 2 : std::max<size_t>(1, length / 3);
    if (distance > limit && !Contains(wanted, other)) continue;
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string DidYouMean(std::string_view name, std::span<const std::string> candidates) {
  const std::string closest = ClosestName(name, candidates);
  return closest.empty() ? std::string() : fmt::format("; did you mean \"{}\"?", closest);
}

}  // namespace sepia
