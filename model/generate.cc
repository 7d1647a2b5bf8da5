#include "model/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/philox.h"
#include "model/decoder.h"

namespace sepia::model {
namespace {

void CheckLogits(std::span<const float> logits) {
  // Minus infinity is a probability of zero; nothing else may be infinite.
  const auto is_damaged = [](float x) { return std::isnan(x) || (std::isinf(x) && x > 0); };
  const auto is_finite = [](float x) { return std::isfinite(x); };
  if (std::none_of(logits.begin(), logits.end(), is_damaged) &&
      std::any_of(logits.begin(), logits.end(), is_finite)) {
    return;
  }
  throw UserError(ExitCode::kNumerical,
                  "the model's logits are not finite; its weights are damaged or have diverged");
}

// Candidates by falling logit, ties by id.
std::vector<int32_t> SortedCandidates(std::span<const float> logits, int32_t top_k) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const size_t kept = top_k > 0 ? std::min(ids.size(), static_cast<size_t>(top_k)) : ids.size();
  std::partial_sort(ids.begin(), ids.begin() + static_cast<int64_t>(kept), ids.end(), before);
  ids.resize(kept);
  return ids;
}

}  // namespace

int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options, uint64_t index) {
  if (options.vocab_size > 0 && options.vocab_size < static_cast<int64_t>(logits.size())) {
    logits = logits.first(static_cast<size_t>(options.vocab_size));
  }
  CheckLogits(logits);
  if (options.temperature == 0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  const std::vector<int32_t> ids = SortedCandidates(logits, options.top_k);
  std::vector<double> cumulative;
  double total = 0;
  for (const int32_t id : ids) {
    const double above = static_cast<double>(logits[static_cast<size_t>(id)]) -
                         static_cast<double>(logits[static_cast<size_t>(ids[0])]);
    cumulative.push_back(total += std::exp(above / options.temperature));
  }
  // The nucleus ends with the token that reaches top_p.
  const auto nucleus =
      std::lower_bound(cumulative.begin(), cumulative.end() - 1, options.top_p * total);
  const double mass = *nucleus;
  const double point = PhiloxStream(options.seed, "sampling").Uniform(index) * mass;
  const auto drawn = std::upper_bound(cumulative.begin(), nucleus, point);
  return ids[static_cast<size_t>(drawn - cumulative.begin())];
}

std::vector<int32_t> Generate(const kernels::Context& ctx, GptNeox& model, dist::Mesh& mesh,
                              std::span<const int32_t> prompt, const GenerateOptions& options) {
  CHECK(!prompt.empty(), "generation starts from at least one token");
  std::vector<int32_t> tokens;
  if (options.max_tokens <= 0) return tokens;
  const auto prompt_length = static_cast<int64_t>(prompt.size());
  Decoder decoder(ctx, model, mesh, prompt_length + options.max_tokens);
  std::span<const float> logits = decoder.Append(prompt);
  while (true) {
    const int32_t token = SampleToken(logits, options.sampling, tokens.size());
    if (token == options.stop_token) return tokens;
    tokens.push_back(token);
    if (options.on_token) options.on_token(token);
    if (static_cast<int64_t>(tokens.size()) == options.max_tokens) return tokens;
    logits = decoder.Append({&tokens.back(), 1});
  }
}

}  // namespace sepia::model
