#include "dist/gather.h"

#include <algorithm>

#include <fmt/format.h>

namespace sepia::dist {
namespace {

TensorView BytesOf(std::string& text) {
  return TensorView(text.data(), DType::kUInt8, {static_cast<int64_t>(text.size())});
}

}  // namespace

std::vector<std::string> GatherTexts(Communicator& group, std::string_view text,
                                     std::string_view label) {
  kernels::Context ctx;
  const auto ranks = static_cast<size_t>(group.size());
  std::vector<int64_t> sizes(ranks);
  const auto size = static_cast<int64_t>(text.size());
  group
      .AllGather(ctx, ConstTensorView(&size, DType::kInt64, {1}),
                 TensorView::Of(std::span(sizes), {group.size()}), label)
      .Wait();
  const auto longest = static_cast<size_t>(*std::max_element(sizes.begin(), sizes.end()));
  std::string padded(text);
  padded.resize(longest);
  std::string all(longest * ranks, '\0');
  group.AllGather(ctx, BytesOf(padded), BytesOf(all), label).Wait();
  std::vector<std::string> texts;
  for (size_t r = 0; r < ranks; ++r) {
    texts.push_back(all.substr(r * longest, static_cast<size_t>(sizes[r])));
  }
  return texts;
}

std::string BroadcastText(Communicator& group, std::string text, int root, std::string_view label) {
  kernels::Context ctx;
  auto size = static_cast<int64_t>(text.size());
  group.Broadcast(ctx, TensorView(&size, DType::kInt64, {1}), root, label).Wait();
  text.resize(static_cast<size_t>(size));
  group.Broadcast(ctx, BytesOf(text), root, label).Wait();
  return text;
}

std::string JoinRanks(const std::vector<int>& ranks) {
  if (ranks.size() < 2) return fmt::format("{}", fmt::join(ranks, ""));
  return fmt::format("{} and {}", fmt::join(ranks.begin(), ranks.end() - 1, ", "), ranks.back());
}

std::vector<int> RanksThatDiffer(const std::vector<std::string>& texts) {
  const auto frequency = [&](const std::string& text) {
    return std::count(texts.begin(), texts.end(), text);
  };
  const auto usual = std::max_element(
      texts.begin(), texts.end(),
      [&](const std::string& a, const std::string& b) { return frequency(a) < frequency(b); });
  std::vector<int> ranks;
  for (size_t r = 0; r < texts.size(); ++r) {
    if (texts[r] != *usual) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

}  // namespace sepia::dist
