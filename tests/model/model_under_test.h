// A model with given weights, run on one batch: everything it computes, as plain vectors.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/batch.h"
#include "dist/mesh.h"
#include "model/gpt_neox.h"

namespace sepia::testing {

using NamedValues = std::map<std::string, std::vector<float>>;  // by Hugging Face name

struct ModelResults {
  std::vector<float> logits;  // [B, T, V]
  double loss = 0;            // mean over unmasked targets
  NamedValues grads;          // of the mean loss
};

// The Config message's text form, resolved; throws InternalError on any fault.
model::ModelConfig ConfigFromText(const std::string& text);

// A batch with the indexes that the config's layers need.
Batch MakeBatch(const model::ModelConfig& config, std::vector<int32_t> tokens,
                std::vector<int32_t> targets, int64_t batch_size, int64_t seq_length);

// Random tokens with targets shifted by one; every fourth token or so is a separator of `config`.
Batch RandomBatch(const model::ModelConfig& config, int64_t batch_size, int64_t seq_length,
                  uint64_t seed);

// Weights of the model's own initialisers, LayerNorm parameters and biases disturbed so that none
// is trivially zero or one.
NamedValues RandomWeights(const model::ModelConfig& config, uint64_t seed);

class ModelUnderTest {
 public:
  // num_threads of `options` is used throughout.
  ModelUnderTest(const model::ModelConfig& config, const model::ModelOptions& options);

  model::GptNeox& model() { return *model_; }
  dist::Mesh& mesh() { return mesh_; }
  kernels::Context& ctx() { return ctx_; }

  void SetWeights(const NamedValues& weights);

  void Forward(const Batch& batch) { model_->Forward(ctx_, batch); }
  std::vector<float> Logits(const Batch& batch);
  // Gradients are seeded with loss_scale and divided by it afterwards.
  ModelResults Run(const Batch& batch, float loss_scale = 1);
  // The gradients as they stand, times `factor`.
  NamedValues Gradients(double factor);

 private:
  dist::Mesh mesh_;
  std::unique_ptr<model::GptNeox> model_;
  kernels::Context ctx_;
};

}  // namespace sepia::testing
