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

// Rows [begin, end) of a batch.
Batch CutRows(const model::ModelConfig& config, const Batch& batch, int64_t begin, int64_t end);

class ModelUnderTest {
 public:
  // On the program's test device, or the one of `options` if that is not the host. num_threads of
  // `options` is used throughout.
  ModelUnderTest(const model::ModelConfig& config, const model::ModelOptions& options);
  // One rank of several; `tensor` of them share a copy of the model.
  ModelUnderTest(const model::ModelConfig& config, const model::ModelOptions& options,
                 std::unique_ptr<dist::Communicator> world, int tensor);

  model::GptNeox& model() { return *model_; }
  dist::Mesh& mesh() { return mesh_; }
  kernels::Context& ctx() { return ctx_; }

  // Of the whole model: a rank takes its part.
  void SetWeights(const NamedValues& weights);

  void Forward(const Batch& batch) { model_->Forward(ctx_, batch); }
  std::vector<float> Logits(const Batch& batch);
  // Gradients are seeded with loss_scale and divided by it afterwards. Of several ranks each has
  // its own rows; loss and gradients are those of all rows, on every rank. Logits are the rank's.
  ModelResults Run(const Batch& batch, float loss_scale = 1);
  // The sum of the batch's losses.
  double Backward(const Batch& batch, float grad_scale, GradMode mode);
  // The gradients as they stand, times `factor`: whole parameters, summed over data ranks.
  NamedValues Gradients(double factor);

 private:
  void SumOverDataRanks(TensorView values);

  dist::Mesh mesh_;
  std::unique_ptr<model::GptNeox> model_;
  kernels::Context ctx_;
};

}  // namespace sepia::testing
