#include "trainer/samples.h"

#include <algorithm>
#include <vector>

#include <fmt/core.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "model/generate.h"

namespace sepia::trainer {
namespace {

data::Tokenizer LoadTokenizer(const TrainSettings& settings) {
  if (settings.data.tokenizer.empty()) {
    throw UserError("samples.every_steps needs data.tokenizer: the path of a tokenizer.json");
  }
  data::Tokenizer tokenizer = data::Tokenizer::Load(settings.data.tokenizer);
  if (tokenizer.vocab_size() > settings.model.vocab_size) {
    throw UserError(
        fmt::format("{}: {} tokens, but model.vocab_size is {}; use the tokenizer that "
                    "made the data",
                    settings.data.tokenizer, tokenizer.vocab_size(), settings.model.vocab_size));
  }
  return tokenizer;
}

}  // namespace

SampleWriter::SampleWriter(const TrainSettings& settings, const std::string& directory)
    : settings_(settings), directory_(directory), tokenizer_(LoadTokenizer(settings)) {}

std::string SampleWriter::Continue(const std::string& prompt, const kernels::Context& ctx,
                                   model::GptNeox& model, dist::Mesh& mesh) const {
  // An empty prompt begins a document: after the end of another one.
  std::vector<int32_t> ids = tokenizer_.Encode(prompt);
  if (ids.empty()) ids.push_back(settings_.data.eod_id);
  const int64_t positions = settings_.model.max_positions;
  if (static_cast<int64_t>(ids.size()) >= positions) ids.resize(static_cast<size_t>(positions) - 1);
  const SamplesSettings& samples = settings_.samples;
  model::GenerateOptions options;
  options.max_tokens =
      std::min<int64_t>(samples.max_tokens, positions - static_cast<int64_t>(ids.size()));
  options.stop_token = settings_.data.eod_id;
  options.sampling = {.temperature = samples.temperature,
                      .top_k = samples.top_k,
                      .top_p = samples.top_p,
                      .seed = settings_.seed,
                      .vocab_size = tokenizer_.vocab_size()};
  return tokenizer_.Decode(model::Generate(ctx, model, mesh, ids, options));
}

void SampleWriter::Write(int64_t step, const kernels::Context& ctx, model::GptNeox& model,
                         dist::Mesh& mesh, Recorder& recorder) {
  std::vector<std::string> prompts = settings_.samples.prompt;
  if (prompts.empty()) prompts.emplace_back();
  std::string file;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::string text = prompts[i] + Continue(prompts[i], ctx, model, mesh);
    recorder.RecordText(step, fmt::format("samples/{}", i), text);
    file += fmt::format("--- sample {} of step {}\n{}\n", i, step, text);
    if (i == 0) LogInfo("sample: {}", text);
  }
  if (mesh.world().rank() == 0) {
    WriteFileAtomic(fmt::format("{}/step_{:08d}.txt", directory_, step), file);
  }
}

}  // namespace sepia::trainer
