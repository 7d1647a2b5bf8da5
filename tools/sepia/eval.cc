// sepia eval: loss and perplexity over a tokenised corpus.
#include <cmath>
#include <cstdio>
#include <memory>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/buffer.h"
#include "base/device_memory.h"
#include "base/integer.h"
#include "base/log.h"
#include "data/indexed_dataset.h"
#include "dist/agreement.h"
#include "kernels/elementwise.h"
#include "model/make_batch.h"
#include "tools/sepia/command.h"
#include "tools/sepia/loaded_model.h"
#include "tools/sepia/ranks.h"

namespace sepia::tools {
namespace {

struct EvalOptions {
  ModelSourceOptions source;
  std::string data;
  int64_t seq = 0;
  int64_t max_samples = 0;
  int64_t batch = 4;
  bool json = false;
};

// Consecutive windows of the whole file: window k predicts tokens kT + 1 .. (k+1) T from those
// before them in the window, so every token but the first is predicted once. What is left at the
// end and does not fill a window forms a shorter last one.
class Windows {
 public:
  Windows(const data::IndexedDataset& dataset, int64_t seq, int64_t max_samples)
      : dataset_(dataset), seq_(seq) {
    const int64_t predicted = dataset.num_tokens() - 1;
    if (predicted < 1) {
      throw BadData(dataset.prefix() + ".bin", -1,
                    fmt::format("{} tokens; at least 2 are needed", dataset.num_tokens()), "");
    }
    count_ = CeilDiv(predicted, seq);
    if (max_samples > 0) count_ = std::min(count_, max_samples);
  }

  int64_t count() const { return count_; }
  // Tokens that window k predicts: seq, less in the last one.
  int64_t length(int64_t k) const { return std::min(seq_, dataset_.num_tokens() - 1 - k * seq_); }
  void Read(int64_t k, int64_t vocab_size, std::vector<int32_t>* tokens) const {
    tokens->resize(static_cast<size_t>(length(k) + 1));
    dataset_.ReadStream(k * seq_, *tokens);
    for (size_t i = 0; i < tokens->size(); ++i) {
      if ((*tokens)[i] < vocab_size) continue;
      const data::TokenPlace place = dataset_.StreamPlace(k * seq_ + static_cast<int64_t>(i));
      throw BadData(
          place.file, place.byte_offset,
          fmt::format("token {} is outside the model's vocabulary of {}", (*tokens)[i], vocab_size),
          "tokenise with the model's own tokenizer");
    }
  }

 private:
  const data::IndexedDataset& dataset_;
  int64_t seq_;
  int64_t count_;
};

// Windows [first, ...) of equal length, `most` at most.
int64_t RowsOfBatch(const Windows& windows, int64_t first, int64_t most) {
  int64_t rows = 1;
  while (rows < most && first + rows < windows.count() &&
         windows.length(first + rows) == windows.length(first)) {
    ++rows;
  }
  return rows;
}

Batch ReadBatch(const Windows& windows, const model::GptNeox& model, int64_t first, int64_t rows) {
  std::vector<int32_t> tokens, targets, window;
  for (int64_t row = 0; row < rows; ++row) {
    windows.Read(first + row, model.config().vocab_size, &window);
    tokens.insert(tokens.end(), window.begin(), window.end() - 1);
    targets.insert(targets.end(), window.begin() + 1, window.end());
  }
  return model::MakeBatch(model.attention_plan(), std::move(tokens), std::move(targets), rows,
                          windows.length(first));
}

struct Sums {
  double loss = 0, targets = 0;
};

// Data ranks take turns, batch by batch.
Sums SumLosses(const Windows& windows, int64_t batch_size, LoadedModel& loaded) {
  dist::Communicator& data = loaded.mesh().data();
  Sums sums;
  const OwnedTensor loss(DType::kFloat64, {1}, loaded.ctx().device);
  kernels::Zero(loaded.ctx(), loss);
  int64_t k = 0;
  for (int64_t number = 0; k < windows.count(); ++number) {
    const int64_t rows = RowsOfBatch(windows, k, batch_size);
    if (number % data.size() == data.rank()) {
      const Batch batch = ReadBatch(windows, loaded.model(), k, rows);
      loaded.model().Forward(loaded.ctx(), batch);
      loaded.model().Loss(loaded.ctx(), batch, loss, GradMode::kAccumulate);
      sums.targets += static_cast<double>(batch.num_targets());
    }
    k += rows;
    LogDebug("{} of {} windows", k, windows.count());
  }
  sums.loss = ReadScalar<double>(loss);
  data.AllReduce(loaded.ctx(), TensorView(&sums.loss, DType::kFloat64, {1}), dist::ReduceOp::kSum,
                 "loss")
      .Wait();
  data.AllReduce(loaded.ctx(), TensorView(&sums.targets, DType::kFloat64, {1}),
                 dist::ReduceOp::kSum, "targets")
      .Wait();
  return sums;
}

void RunEval(const EvalOptions& options) {
  std::unique_ptr<dist::Communicator> world = JoinWorld();
  const OpenedModel opened = OpenedModel::OpenOn(*world, options.source);
  const auto dataset =
      dist::Agreed(*world, [&] { return std::make_unique<data::IndexedDataset>(options.data); });
  const int64_t seq = options.seq > 0 ? options.seq : opened.model_config().max_positions;
  const auto windows =
      dist::Agreed(*world, [&] { return Windows(*dataset, seq, options.max_samples); });
  LoadedModel loaded(opened, {.batch_size = options.batch, .seq_length = seq}, std::move(world));
  const Sums sums = SumLosses(windows, options.batch, loaded);
  if (loaded.mesh().world().rank() != 0) return;
  const auto num_targets = static_cast<int64_t>(sums.targets);
  const double loss = sums.loss / sums.targets;
  if (options.json) {
    const nlohmann::ordered_json result = {{"loss", loss},
                                           {"perplexity", std::exp(loss)},
                                           {"tokens", num_targets},
                                           {"samples", windows.count()},
                                           {"seq", seq}};
    std::printf("%s\n", result.dump().c_str());
  } else {
    std::printf("loss %.6f  perplexity %.3f  over %lld tokens\n", loss, std::exp(loss),
                static_cast<long long>(num_targets));
  }
}

}  // namespace

void AddEvalCommand(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "loss and perplexity over a tokenised corpus");
  AddModelSourceOptions(command, &options->source);
  command->add_option("--data", options->data, "prefix of a .bin/.idx pair")->required();
  command
      ->add_option("--seq", options->seq,
                   "tokens a window; windows do not overlap (default: the model's positions)")
      ->check(CLI::PositiveNumber);
  command->add_option("--max-samples", options->max_samples, "windows at most; 0 = all")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--batch", options->batch, "windows at a time")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", options->json, "print {\"loss\", \"perplexity\", \"tokens\", ...}");
  command->footer(
      "Example:\n  sepia eval --model runs/my-run --data corpus/valid --seq 2048 --json");
  command->final_callback([options] { RunEval(*options); });
}

}  // namespace sepia::tools
