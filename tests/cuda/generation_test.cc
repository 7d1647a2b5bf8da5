// Generation on the emulated device: the tokens of the host, on one rank and on two, and what a
// step costs.
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "dist/thread_ranks.h"
#include "kernels/cuda/emulation/emulation.h"
#include "model/decoder.h"
#include "model/generate.h"
#include "tests/model/compare.h"
#include "tests/model/model_under_test.h"

namespace sepia::testing {
namespace {

using kernels::cuda::emulation::AllCounters;
using kernels::cuda::emulation::MutableOptions;
using kernels::cuda::emulation::ResetCounters;

constexpr char kShape[] =
    "vocab_size: 96 hidden_size: 32 num_layers: 2 num_heads: 4 max_positions: 400 ";
constexpr const char* kAttention[] = {
    "", "attention { kind: SEP window: 6 separator_ids: [3, 7] full_layers: [0] }",
    "attention { kind: STREAMING window: 5 num_initial: 4 } parallel_residual: false",
    "attention { kind: FIXED_STRIDE window: 3 stride: 4 } tie_embeddings: true",
    "attention { kind: SEP separator_ids: 3 window_per_layer: [1, 9] "
    "num_initial_per_layer: [0, 2] }"};

model::ModelOptions Options(Device device, DType dtype) {
  return {.compute_dtype = dtype, .seq_length = 1, .gradients = false, .device = device};
}

std::vector<int32_t> Generate(const model::ModelConfig& config, Device device, int tensor,
                              const model::SamplingOptions& sampling) {
  const std::vector<int32_t> prompt = RandomBatch(config, 1, 13, 8).tokens;
  std::vector<std::vector<int32_t>> texts(static_cast<size_t>(tensor));
  dist::RunThreadRanks(tensor, [&](std::unique_ptr<dist::Communicator> world) {
    const auto rank = static_cast<size_t>(world->rank());
    ModelUnderTest model(config, Options(device, DType::kFloat32), std::move(world), tensor);
    model.SetWeights(RandomWeights(config, 3));
    texts[rank] = model::Generate(model.ctx(), model.model(), model.mesh(), prompt,
                                  {.max_tokens = 16, .sampling = sampling});
  });
  EXPECT_EQ(texts.front().size(), 16u);
  EXPECT_EQ(texts.back(), texts.front());
  return texts.front();
}

TEST(CudaGeneration, GivesTheTokensOfTheHost) {
  for (const char* attention : kAttention) {
    SCOPED_TRACE(attention);
    const model::ModelConfig config = ConfigFromText(std::string(kShape) + attention);
    for (const double temperature : {0.0, 0.8}) {
      const model::SamplingOptions sampling = {.temperature = temperature, .seed = 5};
      EXPECT_EQ(Generate(config, Device::kCuda, 1, sampling),
                Generate(config, Device::kCpu, 1, sampling));
    }
  }
}

// Over the stand-in of NCCL.
TEST(CudaGeneration, TwoTensorRanksGiveTheTokensOfOne) {
  const model::ModelConfig config = ConfigFromText(std::string(kShape) + kAttention[1]);
  const model::SamplingOptions sampling = {.temperature = 0.8, .seed = 5};
  EXPECT_EQ(Generate(config, Device::kCuda, 2, sampling),
            Generate(config, Device::kCuda, 1, sampling));
}

// Two computations of the same rounded values in different orders of sums: two layers of
// parity_test.cc's ExpectedError (2 u sqrt(8 L)), on both sides.
TEST(CudaGeneration, LogitsInSixteenBitsAreThoseOfTheHost) {
  const model::ModelConfig config = ConfigFromText(std::string(kShape) + kAttention[1]);
  const std::vector<int32_t> tokens = RandomBatch(config, 1, 24, 8).tokens;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    const double unit_roundoff = dtype == DType::kBFloat16 ? 0x1p-8 : 0x1p-11;
    const double tolerance = 2 * 2 * unit_roundoff * std::sqrt(8 * 2);
    ModelUnderTest on_host(config, Options(Device::kCpu, dtype));
    ModelUnderTest on_device(config, Options(Device::kCuda, dtype));
    const auto decoder = [&](ModelUnderTest& model) {
      model.SetWeights(RandomWeights(config, 3));
      return model::Decoder(model.ctx(), model.model(), model.mesh(), 24);
    };
    model::Decoder host = decoder(on_host), device = decoder(on_device);
    size_t begin = 0;
    for (const size_t end : {1, 2, 9, 10, 23, 24}) {  // pieces of one and of several tokens
      const auto piece = std::span(tokens).subspan(begin, end - begin);
      EXPECT_LE(RelativeError(device.Append(piece), host.Append(piece)), tolerance)
          << DTypeName(dtype) << " " << end;
      begin = end;
    }
  }
}

// Global memory that the kernels of one step touch, in sectors of 32 bytes.
int64_t SectorsOfStep(model::Decoder& decoder) {
  const int32_t token = 5;
  ResetCounters();
  MutableOptions().count_memory = true;
  decoder.Append({&token, 1});
  MutableOptions() = {};
  int64_t sectors = 0;
  for (const auto& [kernel, counted] : AllCounters()) sectors += counted.global_sectors;
  return sectors;
}

// Positions that no layer sees cost nothing, however many there are; those that a layer sees do.
TEST(CudaGeneration, AStepCostsWhatItSees) {
  const auto growth = [](const char* attention) {
    const model::ModelConfig config = ConfigFromText(std::string(kShape) + attention);
    ModelUnderTest model(config, Options(Device::kCuda, DType::kBFloat16));
    model.SetWeights(RandomWeights(config, 3));
    model::Decoder decoder(model.ctx(), model.model(), model.mesh(), 400);
    decoder.Append(std::vector<int32_t>(40, 5));
    const int64_t before = SectorsOfStep(decoder);
    EXPECT_GT(before, 0);
    decoder.Append(std::vector<int32_t>(80, 5));
    decoder.Append(std::vector<int32_t>(239, 5));
    return SectorsOfStep(decoder) - before;
  };
  EXPECT_EQ(growth("attention { kind: SEP window: 8 separator_ids: [3, 7] }"), 0);
  // 320 more positions, 2 layers, 4 heads, keys and values of 16 bytes: two heads a sector.
  EXPECT_GE(growth(""), 320 * 2 * 4 * 2 / 2);
}

}  // namespace
}  // namespace sepia::testing
