// Text that the model writes during training: samples/step_N.txt and TensorBoard. The same prompts
// and the same seed every time, so that what changes is the model.
#pragma once

#include <cstdint>
#include <string>

#include "data/tokenizer/tokenizer.h"
#include "dist/mesh.h"
#include "model/gpt_neox.h"
#include "trainer/recorder.h"
#include "trainer/settings.h"

namespace sepia::trainer {

class SampleWriter {
 public:
  // `directory` exists. Throws UserError when settings.data.tokenizer is missing or unsuitable.
  SampleWriter(const TrainSettings& settings, const std::string& directory);

  bool Due(int64_t step) const { return step % settings_.samples.every_steps == 0; }
  // On ctx.device, the model's.
  void Write(int64_t step, const kernels::Context& ctx, model::GptNeox& model, dist::Mesh& mesh,
             Recorder& recorder);

 private:
  std::string Continue(const std::string& prompt, const kernels::Context& ctx,
                       model::GptNeox& model, dist::Mesh& mesh) const;

  const TrainSettings settings_;
  const std::string directory_;
  const data::Tokenizer tokenizer_;
};

}  // namespace sepia::trainer
