#include "data/split.h"

#include <charconv>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace sepia::data {
namespace {

constexpr size_t kNumSplits = 3;

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

double ParseShare(std::string_view part, const std::string& split) {
  const std::string_view digits = Trim(part);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool complete = error == std::errc() && end == digits.data() + digits.size();
  if (!complete || !(value >= 0) || std::isinf(value)) {
    throw UserError(
        fmt::format("split \"{}\": \"{}\" is not a share; expected numbers like "
                    "\"969,30,1\"",
                    split, part));
  }
  return value;
}

std::array<double, kNumSplits> ParseShares(const std::string& split) {
  const char separator = split.find(',') != std::string::npos ? ',' : '/';
  std::array<double, kNumSplits> shares{};
  std::string_view rest = split;
  for (size_t i = 0; i < kNumSplits; ++i) {
    const size_t end = rest.find(separator);
    shares[i] = ParseShare(rest.substr(0, end), split);
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return shares;
}

}  // namespace

SplitBounds NeoxSplitBounds(const std::string& split, int64_t num_documents) {
  const std::array<double, kNumSplits> shares = ParseShares(split);
  double sum = 0;
  for (const double share : shares) sum += share;
  if (!(sum > 0)) throw UserError(fmt::format("split \"{}\": all shares are 0", split));
  SplitBounds bounds{};
  for (size_t i = 0; i < kNumSplits; ++i) {
    // nearbyint rounds half to even in the default mode, as Python's round does.
    const double documents = shares[i] / sum * static_cast<double>(num_documents);
    bounds[i + 1] = bounds[i] + static_cast<int64_t>(std::nearbyint(documents));
  }
  const int64_t surplus = bounds[kNumSplits] - num_documents;
  for (size_t i = 1; i <= kNumSplits; ++i) bounds[i] -= surplus;
  return bounds;
}

SplitBounds SplitDocuments(const std::string& split, int64_t num_documents) {
  const SplitBounds bounds = NeoxSplitBounds(split, num_documents);
  if (bounds[1] < 0) {
    throw UserError(
        fmt::format("split \"{}\" of {} documents: rounding would give the first split "
                    "{} documents; choose other shares, or give train, valid and test "
                    "datasets of their own",
                    split, num_documents, bounds[1]));
  }
  return bounds;
}

}  // namespace sepia::data
