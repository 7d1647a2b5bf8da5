// Loss over a dataset, without gradients.
#pragma once

#include <cstdint>
#include <memory>

#include "data/dataset.h"
#include "dist/mesh.h"
#include "kernels/context.h"
#include "model/gpt_neox.h"
#include "trainer/settings.h"

namespace sepia::trainer {

struct EvaluationResult {
  double loss = 0;  // mean over unmasked targets, all data ranks
  int64_t targets = 0;
};

// The mean loss of `num_batches` global batches from batch number `first_batch` on; the dataset
// starts over when it ends. Collective over the mesh.
EvaluationResult Evaluate(kernels::Context& ctx, model::GptNeox& model, dist::Mesh& mesh,
                          const TrainSettings& settings,
                          std::shared_ptr<const data::Dataset> dataset, int64_t first_batch,
                          int64_t num_batches);

// The batches of the validation after `step`: as GPT-NeoX's uninterrupted runs, each validation
// takes the next eval.steps batches of the validation set.
int64_t FirstValidationBatch(const EvalSettings& settings, int64_t step);

// Samples that all validations of a run take: NeoX's (total / every + 1) eval.steps batches.
int64_t NumValidationSamples(const TrainSettings& settings);

}  // namespace sepia::trainer
