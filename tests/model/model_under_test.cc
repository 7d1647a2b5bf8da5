#include "tests/model/model_under_test.h"

#include <google/protobuf/text_format.h>

#include <fmt/format.h>

#include "base/device_memory.h"
#include "base/philox.h"
#include "device_under_test.h"
#include "dist/device_world.h"
#include "kernels/device.h"
#include "model/make_batch.h"
#include "model/model_config.pb.h"

namespace sepia::testing {

model::ModelConfig ConfigFromText(const std::string& text) {
  config::ModelConfig proto;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &proto), "{}", text);
  std::vector<std::string> faults;
  model::ModelConfig config = model::ResolveModelConfig(proto, &faults);
  CHECK(faults.empty(), "{}", fmt::join(faults, "; "));
  return config;
}

Batch MakeBatch(const model::ModelConfig& config, std::vector<int32_t> tokens,
                std::vector<int32_t> targets, int64_t batch_size, int64_t seq_length) {
  return model::MakeBatch(model::MakeAttentionPlan(config), std::move(tokens), std::move(targets),
                          batch_size, seq_length);
}

Batch CutRows(const model::ModelConfig& config, const Batch& batch, int64_t begin, int64_t end) {
  return model::CutRows(model::MakeAttentionPlan(config), batch, begin, end);
}

Batch RandomBatch(const model::ModelConfig& config, int64_t batch_size, int64_t seq_length,
                  uint64_t seed) {
  const PhiloxStream stream(seed, "tokens");
  const auto draw = [&](uint64_t index) {
    const auto value = stream.Bits(2 * index);
    const std::vector<int32_t>& separators = config.separator_ids;
    if (!separators.empty() && stream.Bits(2 * index + 1) % 4 == 0) {
      return separators[value % separators.size()];
    }
    return static_cast<int32_t>(value % static_cast<uint32_t>(config.vocab_size));
  };
  std::vector<int32_t> tokens, targets;
  for (int64_t row = 0; row < batch_size; ++row) {
    for (int64_t t = 0; t < seq_length; ++t) {
      const auto index = static_cast<uint64_t>(row * (seq_length + 1) + t);
      tokens.push_back(draw(index));
      targets.push_back(draw(index + 1));
    }
  }
  return MakeBatch(config, std::move(tokens), std::move(targets), batch_size, seq_length);
}

NamedValues RandomWeights(const model::ModelConfig& config, uint64_t seed) {
  NamedValues weights;
  const model::ParameterTable table(config);
  for (const model::ParamSpec& spec : table.specs()) {
    std::vector<float>& values = weights[spec.hf_name];
    values.resize(static_cast<size_t>(spec.shape.num_elements()));
    InitializeParameter(spec, seed, 1, TensorView::Of(std::span(values), spec.shape));
    if (spec.shape.rank() == 2) continue;
    const PhiloxStream stream(seed, spec.hf_name + "/disturbed");
    for (size_t i = 0; i < values.size(); ++i) values[i] += 0.1f * stream.Normal(i);
  }
  return weights;
}

namespace {

// Calls fn(whole, local) with the places of every element of a rank's part.
template <typename Fn>
void ForEachLocalElement(const model::ParamSpec& spec, dist::Mesh& mesh, const Fn& fn) {
  const model::ParamPart part = PartOfTensorRank(spec, mesh.tensor().rank(), mesh.tensor().size());
  const int last = spec.shape.rank() - 1;
  const int64_t width = part.shape[last];
  const int64_t first =
      last == 0 ? part.offset[0] : part.offset[0] * spec.shape[1] + part.offset[1];
  for (int64_t e = 0; e < part.shape.num_elements(); ++e) {
    fn(static_cast<size_t>(first + e / width * spec.shape[last] + e % width),
       static_cast<size_t>(e));
  }
}

model::ModelOptions OnTestDevice(model::ModelOptions options) {
  if (options.device == Device::kCpu) options.device = kTestDevice;
  kernels::OpenDevice(options.device);
  return options;
}

}  // namespace

ModelUnderTest::ModelUnderTest(const model::ModelConfig& config, const model::ModelOptions& options)
    : ModelUnderTest(config, options, dist::MakeSelfCommunicator(), /*tensor=*/1) {}

ModelUnderTest::ModelUnderTest(const model::ModelConfig& config, const model::ModelOptions& options,
                               std::unique_ptr<dist::Communicator> world, int tensor)
    : mesh_(dist::OpenDeviceWorld(std::move(world), OnTestDevice(options).device), tensor),
      model_(std::make_unique<model::GptNeox>(config, OnTestDevice(options), mesh_)),
      // Tensor-core kernels serve every case of 16 bits: nothing may fall back unseen.
      ctx_{.device = model_->options().device,
           .num_threads = options.num_threads,
           .scratch = &model_->scratch(),
           .allow_fallback = options.compute_dtype == DType::kFloat32} {}

void ModelUnderTest::SetWeights(const NamedValues& weights) {
  const auto specs = model_->parameters().specs();
  CHECK_EQ(weights.size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::vector<float>& values = weights.at(specs[i].hf_name);
    const Shape shape = model_->weight(static_cast<int>(i)).shape();
    std::vector<float> local(static_cast<size_t>(shape.num_elements()));
    ForEachLocalElement(specs[i], mesh_, [&](size_t w, size_t l) { local[l] = values[w]; });
    model_->SetWeight(ctx_, static_cast<int>(i), TensorView::Of(std::span(local), shape));
  }
}

std::vector<float> ModelUnderTest::Logits(const Batch& batch) {
  const Shape shape{batch.batch_size, batch.seq_length, model_->config().vocab_size};
  std::vector<float> logits(static_cast<size_t>(shape.num_elements()));
  const OwnedTensor computed(DType::kFloat32, shape, ctx_.device);
  model_->Logits(ctx_, batch, computed);
  CopyTensor(computed, TensorView::Of(std::span(logits), shape));
  return logits;
}

ModelResults ModelUnderTest::Run(const Batch& batch, float loss_scale) {
  ModelResults results;
  Forward(batch);
  results.logits = Logits(batch);
  auto num_targets = static_cast<double>(batch.num_targets());
  SumOverDataRanks(TensorView(&num_targets, DType::kFloat64, {1}));
  const float grad_scale = loss_scale / static_cast<float>(num_targets);
  results.loss = Backward(batch, grad_scale, GradMode::kOverwrite);
  SumOverDataRanks(TensorView(&results.loss, DType::kFloat64, {1}));
  results.loss /= num_targets;
  model_->SumPartialGradients(ctx_);
  results.grads = Gradients(1.0 / static_cast<double>(loss_scale));
  return results;
}

double ModelUnderTest::Backward(const Batch& batch, float grad_scale, GradMode mode) {
  const OwnedTensor scale(DType::kFloat32, {1}, ctx_.device);
  WriteScalar(scale, grad_scale);
  const OwnedTensor loss(DType::kFloat64, {1}, ctx_.device);
  model_->Backward(ctx_, batch,
                   {.grad_scale = scale,
                    .loss_sum = loss,
                    .loss_mode = GradMode::kOverwrite,
                    .grad_mode = mode});
  return ReadScalar<double>(loss);
}

void ModelUnderTest::SumOverDataRanks(TensorView values) {
  mesh_.data().AllReduce(ctx_, values, dist::ReduceOp::kSum, "test").Wait();
}

NamedValues ModelUnderTest::Gradients(double factor) {
  NamedValues grads;
  const auto specs = model_->parameters().specs();
  for (size_t i = 0; i < specs.size(); ++i) {
    const model::ParamSpec& spec = specs[i];
    std::vector<float>& whole = grads[spec.hf_name];
    whole.resize(static_cast<size_t>(spec.shape.num_elements()));
    const TensorView view = TensorView::Of(std::span(whole), spec.shape);
    const HostView gradient(model_->grad(static_cast<int>(i)));
    const std::span<const float> local = gradient->span<float>();
    // Tensor ranks put their parts side by side; of a replicated parameter the first one counts.
    const bool counts =
        spec.placement != model::Placement::kReplicated || mesh_.tensor().rank() == 0;
    ForEachLocalElement(spec, mesh_, [&](size_t w, size_t l) {
      if (counts) whole[w] = static_cast<float>(static_cast<double>(local[l]) * factor);
    });
    mesh_.tensor().AllReduce(ctx_, view, dist::ReduceOp::kSum, "test").Wait();
    SumOverDataRanks(view);
  }
  return grads;
}

}  // namespace sepia::testing
