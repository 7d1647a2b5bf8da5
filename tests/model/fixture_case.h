// One attention case of a fixture model: what Hugging Face transformers computed
// (fixtures/README.md).
#pragma once

#include <string>
#include <vector>

#include "model/model_config.h"
#include "tests/model/model_under_test.h"

namespace sepia::testing {

struct FixtureCase {
  model::ModelConfig config;
  NamedValues weights;
  Batch batch;
  ModelResults expected;      // logits may be those of the last positions of each row only
  std::vector<uint8_t> mask;  // [L, B, T, T]; empty when the file has none
};

// `folder` is a Hugging Face folder with `<name>.safetensors` beside the model.
FixtureCase LoadFixtureCase(const std::string& folder, const std::string& name);

// "tiny_tanh/sep_n8", ...: every case of every model under `root`, sorted.
std::vector<std::string> FixtureCaseNames(const std::string& root);

}  // namespace sepia::testing
