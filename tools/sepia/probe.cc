// sepia probe: one forward and backward pass on given tokens, for comparison with other software.
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/device_memory.h"
#include "base/log.h"
#include "checkpoint/safetensors.h"
#include "dist/agreement.h"
#include "kernels/device.h"
#include "model/gather.h"
#include "model/make_batch.h"
#include "tools/sepia/command.h"
#include "tools/sepia/loaded_model.h"
#include "tools/sepia/ranks.h"

namespace sepia::tools {
namespace {

struct ProbeOptions {
  ModelSourceOptions source;
  std::string tokens;
  std::string out;
};

// torch's cross_entropy leaves out targets with this value.
constexpr int64_t kIgnoredTarget = -100;

std::vector<int32_t> CheckedIds(const checkpoint::SafetensorsFile& file, const char* name,
                                std::vector<int64_t> ids, int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    throw BadData(
        file.path(), -1,
        fmt::format("{}[{}] is {}, outside the vocabulary of {}", name, i, ids[i], vocab_size),
        "tokenise with the model's own tokenizer");
  }
  return {ids.begin(), ids.end()};
}

// Targets that do not count become 0 with mask 0.
void ReadTargets(const checkpoint::SafetensorsFile& file, int64_t vocab_size, Batch* batch) {
  const auto count = batch->tokens.size();
  std::vector<int64_t> targets(count, kIgnoredTarget);
  if (const checkpoint::SafetensorsEntry* entry = file.Find("targets")) {
    if (entry->shape != batch->shape()) {
      throw BadData(file.path(), -1,
                    fmt::format("targets are {}, tokens are {}", entry->shape, batch->shape()),
                    "give both the same shape");
    }
    targets = file.ReadIntegers(*entry);
  } else {
    const auto T = static_cast<size_t>(batch->seq_length);
    for (size_t i = 0; i < count; ++i) {
      if ((i + 1) % T != 0) targets[i] = batch->tokens[i + 1];
    }
    LogInfo("{} has no targets: each token is to be predicted from those before it", file.path());
  }
  batch->loss_mask.assign(count, 1);
  for (size_t i = 0; i < count; ++i) {
    if (targets[i] != kIgnoredTarget) continue;
    targets[i] = 0;
    batch->loss_mask[i] = 0;
  }
  batch->targets = CheckedIds(file, "targets", std::move(targets), vocab_size);
  if (batch->num_targets() == 0) {
    throw BadData(file.path(), -1, "no target counts", "give at least two tokens in a row");
  }
}

Batch ReadBatch(const std::string& path, const model::ModelConfig& config) {
  const checkpoint::SafetensorsFile file(path);
  const checkpoint::SafetensorsEntry& tokens = file.Get("tokens");
  if (tokens.shape.rank() != 2 || tokens.shape.num_elements() == 0) {
    throw BadData(path, -1, fmt::format("tokens are {}, expected [B, T]", tokens.shape), "");
  }
  Batch batch =
      model::MakeBatch(model::MakeAttentionPlan(config),
                       CheckedIds(file, "tokens", file.ReadIntegers(tokens), config.vocab_size), {},
                       tokens.shape[0], tokens.shape[1]);
  ReadTargets(file, config.vocab_size, &batch);
  return batch;
}

// Data ranks share the rows of the batch; the results of all come together on every rank.
class Probe {
 public:
  Probe(LoadedModel& loaded, const Batch& batch)
      : loaded_(loaded), model_(loaded.model()), data_(loaded.mesh().data()), whole_(batch) {
    begin_ = batch.batch_size * data_.rank() / data_.size();
    const int64_t end = batch.batch_size * (data_.rank() + 1) / data_.size();
    rows_ = model::CutRows(model_.attention_plan(), batch, begin_, end);
    model_.Forward(loaded.ctx(), rows_);
  }

  // [B, T, V]: each rank's rows, zero elsewhere, added up.
  OwnedTensor Logits() {
    const int64_t vocab_size = model_.config().vocab_size;
    const OwnedTensor own(DType::kFloat32, {rows_.batch_size, whole_.seq_length, vocab_size},
                          loaded_.ctx().device);
    model_.Logits(loaded_.ctx(), rows_, own);
    OwnedTensor logits(DType::kFloat32, {whole_.batch_size, whole_.seq_length, vocab_size});
    CopyTensor(own, logits.view().Rows(begin_, rows_.batch_size));
    data_.AllReduce(loaded_.ctx(), logits, dist::ReduceOp::kSum, "logits").Wait();
    return logits;
  }

  // Sum of losses; leaves the gradients of their mean, times loss_scale, in the model.
  double Backward(float loss_scale) {
    const Device device = loaded_.ctx().device;
    const OwnedTensor loss(DType::kFloat64, {1}, device);
    const OwnedTensor grad_scale(DType::kFloat32, {1}, device);
    WriteScalar(grad_scale, loss_scale / static_cast<float>(whole_.num_targets()));
    model_.Backward(loaded_.ctx(), rows_,
                    {.grad_scale = grad_scale,
                     .loss_sum = loss,
                     .loss_mode = GradMode::kOverwrite,
                     .grad_mode = GradMode::kOverwrite});
    model_.SumPartialGradients(loaded_.ctx());
    data_.AllReduce(loaded_.ctx(), model_.grads(), dist::ReduceOp::kSum, "gradients").Wait();
    auto sum = ReadScalar<double>(loss);
    data_
        .AllReduce(loaded_.ctx(), TensorView(&sum, DType::kFloat64, {1}), dist::ReduceOp::kSum,
                   "loss")
        .Wait();
    return sum;
  }

 private:
  LoadedModel& loaded_;
  model::GptNeox& model_;
  dist::Communicator& data_;
  const Batch& whole_;
  int64_t begin_;
  Batch rows_;
};

// "on NVIDIA ...; ", or nothing on the host.
std::string DescribeDevice(Device device) {
  const std::string name = kernels::DeviceName(device);
  return name.empty() ? name : "on " + name + "; ";
}

void RunProbe(const ProbeOptions& options) {
  std::unique_ptr<dist::Communicator> world = JoinWorld();
  const OpenedModel opened = OpenedModel::OpenOn(*world, options.source);
  const Batch batch =
      dist::Agreed(*world, [&] { return ReadBatch(options.tokens, opened.model_config()); });
  LoadedModel loaded(
      opened, {.batch_size = batch.batch_size, .seq_length = batch.seq_length, .gradients = true},
      std::move(world));
  LogInfo("{}attention by {}", DescribeDevice(loaded.ctx().device),
          loaded.model().DescribeAttention(loaded.ctx()));
  Probe probe(loaded, batch);
  const OwnedTensor logits = probe.Logits();

  // FP16 gradients are scaled as in a run's first steps, and unscaled for the output.
  const bool scaled = opened.settings().precision == trainer::Precision::kFp16;
  const auto loss_scale =
      scaled ? std::exp2f(static_cast<float>(opened.settings().loss_scale.initial_scale_power)) : 1;
  const double loss_sum = probe.Backward(loss_scale);
  auto loss = static_cast<float>(loss_sum / static_cast<double>(batch.num_targets()));
  model::GptNeox& model = loaded.model();

  std::vector<checkpoint::SafetensorsTensor> tensors = {
      {"logits", logits.view()}, {"loss", TensorView(&loss, DType::kFloat32, {1})}};
  std::vector<OwnedTensor> gradients;
  int number = 0;
  for (const model::ParamSpec& spec : model.parameters().specs()) {
    gradients.push_back(GatherWhole(loaded.ctx(), loaded.mesh(), spec, model.grad(number++)));
    for (float& gradient : gradients.back().view().span<float>()) gradient /= loss_scale;
    tensors.push_back({"grad." + spec.hf_name, gradients.back().view()});
  }
  dist::Agree(loaded.mesh().world(), [&] {
    if (loaded.mesh().world().rank() == 0) checkpoint::WriteSafetensors(options.out, tensors);
  });
  LogInfo("loss {:.6f} over {} targets; {} tensors in {}", loss, batch.num_targets(),
          tensors.size(), options.out);
}

}  // namespace

void AddProbeCommand(CLI::App& app) {
  auto options = std::make_shared<ProbeOptions>();
  CLI::App* command =
      app.add_subcommand("probe", "logits, loss and every gradient on given tokens");
  AddModelSourceOptions(command, &options->source);
  command
      ->add_option("--tokens", options->tokens,
                   "safetensors with tokens [B, T] and, if wanted, targets [B, T] (integers; -100 "
                   "is left out); without targets, the tokens shifted by one")
      ->required();
  command
      ->add_option("--out", options->out,
                   "safetensors to write: logits [B, T, V], loss [1], grad.<Hugging Face name>")
      ->required();
  command->footer(
      "Example:\n  sepia probe --model pythia-70m/ --tokens in.safetensors --out out.safetensors "
      "\\\n"
      "    --set model.attention.kind=SEP --set model.attention.window=64 --set precision=BF16");
  command->final_callback([options] { RunProbe(*options); });
}

}  // namespace sepia::tools
