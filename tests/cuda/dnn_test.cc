// Causal attention over the stand-in of cuDNN against the double oracle, and what is refused.
#include "kernels/cuda/dnn.h"

#include <cudnn_graph.h>

#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "kernels/cuda/dnn_graph.h"
#include "kernels/cuda/emulation/emulation.h"
#include "tests/cuda/sep_attention_trial.h"

namespace sepia::kernels::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Case = testing::SepAttentionCase;
using Trial = testing::SepAttentionTrial;

Case Dense(int64_t seq_length, int64_t head_dim, DType dtype = DType::kBFloat16) {
  return {.batch_size = 2,
          .seq_length = seq_length,
          .num_heads = 3,
          .head_dim = head_dim,
          .kind = AttentionKind::kFull,
          .dtype = dtype,
          .use_dnn = true};
}

TEST(DnnTest, MatchesTheOracle) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const auto& [seq_length, head_dim] :
         {std::pair{1, 64}, std::pair{17, 8}, std::pair{50, 64}, std::pair{33, 128}}) {
      Trial trial(Dense(seq_length, head_dim, dtype));
      trial.Compute();
      trial.ExpectMatchesOracle();
    }
  }
}

TEST(DnnTest, SumsThatAreNotDeterministicMatchTheOracleToo) {
  Case c = Dense(40, 64);
  c.dnn.deterministic = false;
  Trial trial(c);
  trial.Compute();
  trial.ExpectMatchesOracle();
  EXPECT_THAT(trial.kernel_name(), HasSubstr("not deterministic"));
}

TEST(DnnTest, NamesItself) {
  Trial trial(Dense(8, 64));
  trial.ComputeForward();
  EXPECT_EQ(trial.kernel_name(), "cuDNN's stand-in on the host SDPA bf16 D=64, deterministic");
}

std::string MessageOf(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kEnvironment);
    return error.what();
  }
  return "nothing";
}

TEST(DnnTest, RefusesShapes) {
  const auto refusal = [](DType dtype, int64_t head_dim, const DnnAttentionOptions& options = {}) {
    return MessageOf([&] { DnnAttention({dtype, 1, 64, 1, head_dim, 64}, options); });
  };
  EXPECT_THAT(refusal(DType::kFloat32, 64), HasSubstr("bf16 or f16"));
  EXPECT_THAT(refusal(DType::kBFloat16, 20), HasSubstr("multiples of 8"));
  EXPECT_THAT(refusal(DType::kBFloat16, 136), HasSubstr("up to 128"));
  // 64 x 64 scores of 2 bytes.
  EXPECT_THAT(refusal(DType::kBFloat16, 64, {.max_workspace_bytes = 8191}),
              AllOf(HasSubstr("backward attention"), HasSubstr("workspace"),
                    HasSubstr("kernels.full_attention: OWN")));
  EXPECT_EQ(refusal(DType::kBFloat16, 64, {.max_workspace_bytes = 8192}), "nothing");
}

// One product of [1, 1, 16, 8] and [1, 1, 8, 16], as the library sees it.
struct Product {
  explicit Product(cudnnDataType_t type = CUDNN_DATA_BFLOAT16, int64_t depth = 8,
                   int64_t column_stride = 1) {
    a = graph.Real(type, {1, 1, 16, depth}, {16 * depth, 16 * depth, depth, column_stride});
    b = graph.Real(type, {1, 1, depth, 16}, {16 * depth, 16 * depth, 1, depth});
    c = graph.Virtual(CUDNN_DATA_FLOAT, {1, 1, 16, 16});
    out = graph.Real(CUDNN_DATA_FLOAT, {1, 1, 16, 1}, {16, 16, 1, 1});
    graph.Multiply(a, b, c);
    graph.Reduce(CUDNN_REDUCE_TENSOR_ADD, c, out);
    const int32_t device_id = 0;
    device.Set(CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, &device_id).Finalize();
  }
  dnn::Plan MakePlan() { return {std::move(graph), "a product", {device, true, 0}}; }

  dnn::Graph graph;
  dnn::Tensor a, b, c, out;
  dnn::Descriptor device{CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR};
};

TEST(DnnLibraryTest, RefusesWhatItsEnginesDoNotTake) {
  const auto refusal = [](Product product) { return MessageOf([&] { product.MakePlan(); }); };
  EXPECT_EQ(refusal(Product()), "nothing");
  EXPECT_THAT(refusal(Product(CUDNN_DATA_FLOAT)), HasSubstr("takes bf16 and f16"));
  EXPECT_THAT(refusal(Product(CUDNN_DATA_HALF, 12)), HasSubstr("head size 12"));
  EXPECT_THAT(refusal(Product(CUDNN_DATA_HALF, 136)), HasSubstr("head size 136"));
  EXPECT_THAT(refusal(Product(CUDNN_DATA_HALF, 8, 2)), HasSubstr("not contiguous"));
}

TEST(DnnLibraryTest, RefusesPointers) {
  Product product;
  const dnn::Plan plan = product.MakePlan();
  DeviceMemory memory(4096);
  auto* base = memory.data<char>();
  const std::map<int64_t, void*> good = {
      {product.a.uid, base}, {product.b.uid, base + 1024}, {product.out.uid, base + 2048}};
  cudnnHandle_t handle = nullptr;
  cudnnCreate(&handle);
  SetBytes(*std::make_unique<Stream>(), base, 0, 4096);
  EXPECT_NO_THROW(plan.Run(handle, good, nullptr));

  auto bad = good;
  bad[product.b.uid] = base + 1032;
  EXPECT_THROW(plan.Run(handle, bad, nullptr), DeviceError) << "not aligned to 16 bytes";
  bad = good;
  bad.erase(product.out.uid);
  EXPECT_THROW(plan.Run(handle, bad, nullptr), DeviceError) << "no pointer";
  bad = good;
  std::vector<char> host(1024);
  bad[product.a.uid] = host.data() + (16 - reinterpret_cast<uintptr_t>(host.data()) % 16) % 16;
  EXPECT_THROW(plan.Run(handle, bad, nullptr), emulation::Fault) << "host memory";
  cudnnDestroy(handle);
}

TEST(DnnLibraryTest, RefusesUnfinishedDescriptors) {
  dnn::Descriptor tensor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  EXPECT_THAT(tensor.TryFinalize(), HasSubstr("CUDNN_STATUS_BAD_PARAM"));
  dnn::Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  const cudnnBackendDescriptor_t unfinished = tensor.handle();
  EXPECT_THROW(graph.Set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, &unfinished),
               DeviceError);
}

TEST(DnnTest, AMissingWorkspaceIsRefused) {
  DnnAttention attention({DType::kBFloat16, 1, 16, 1, 8, 16});
  Stream stream;
  DeviceMemory memory(16384);
  SetBytes(stream, memory.data<void>(), 0, memory.size());
  auto* base = memory.data<std::byte>();
  const SepAttentionTensors tensors = {.qkv = base,
                                       .out = base + 1024,
                                       .lse = reinterpret_cast<float*>(base + 2048),
                                       .dout = base + 3072,
                                       .dqkv = base + 4096};
  EXPECT_THROW(attention.Backward(stream, tensors, nullptr), std::exception);
  EXPECT_NO_THROW(attention.Backward(stream, tensors, base + 8192));
}

}  // namespace
}  // namespace sepia::kernels::cuda
