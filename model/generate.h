// Sampling of text: greedy, temperature, top-k, top-p, with a seed.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"

namespace sepia::model {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token (of equals the lowest id)
  int32_t top_k = 0;       // only the k most likely tokens; 0: all
  double top_p = 1;        // then only the smallest set of tokens with this much probability
  uint64_t seed = 0;
  // Ids from here on are padding of the vocabulary and never drawn; 0: all V may be drawn.
  int64_t vocab_size = 0;
};

// Draw number `index` of the seed's Philox stream. Throws UserError (exit 70) when a logit is NaN
// or none is finite.
int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options, uint64_t index);

struct GenerateOptions {
  int64_t max_tokens = 64;
  int32_t stop_token = -1;  // ends the text and is not part of it; -1: none
  SamplingOptions sampling;
  // Called with each token as it is drawn.
  std::function<void(int32_t token)> on_token = nullptr;
};

// The tokens that follow `prompt` (at least one token, all in [0, V)), computed on ctx.device, the
// model's, and drawn on the host. Throws UserError when prompt and max_tokens together exceed the
// model's positions.
std::vector<int32_t> Generate(const kernels::Context& ctx, GptNeox& model, dist::Mesh& mesh,
                              std::span<const int32_t> prompt, const GenerateOptions& options);

}  // namespace sepia::model
