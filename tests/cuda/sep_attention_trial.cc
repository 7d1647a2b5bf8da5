#include "tests/cuda/sep_attention_trial.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/kernels/op_test.h"

namespace sepia::kernels::cuda::testing {

using kernels::testing::kSeparator;
using kernels::testing::RandomTensor;
using kernels::testing::SameBits;
using kernels::testing::SeparatorTokens;
using kernels::testing::UnitRoundoff;
using kernels::testing::Values;
using ::sepia::testing::WithMagnitude;

std::string SepAttentionCase::Describe() const {
  return fmt::format("B {} T {} H {} D {} kind {} window {} initial {} density {} {}", batch_size,
                     seq_length, num_heads, head_dim, static_cast<int>(kind), window, num_initial,
                     density[0], DTypeName(dtype));
}

SepAttentionTrial::SepAttentionTrial(const SepAttentionCase& c)
    : case_(c),
      problem_({.batch_size = c.batch_size,
                .seq_length = c.seq_length,
                .num_heads = c.num_heads,
                .head_dim = c.head_dim,
                .spec = {c.kind, c.num_initial, c.stride, {kSeparator, 1000}},
                .window = c.window,
                .tokens = SeparatorTokens(c.batch_size, c.seq_length, c.density),
                .qkv = {}}),
      qkv_(RandomTensor(c.dtype, {c.batch_size, c.seq_length, c.num_heads, 3, c.head_dim}, 1)),
      dout_(RandomTensor(c.dtype, {c.batch_size, c.seq_length, c.num_heads, c.head_dim}, 2)),
      out_(c.dtype, dout_.view().shape()),
      dqkv_(c.dtype, qkv_.view().shape()),
      lse_(DType::kFloat32, {c.batch_size, c.num_heads, c.seq_length}) {
  if (c.query_scale != 1) {
    const std::vector<double> values = Values(qkv_);
    for (int64_t i = 0; i < qkv_.view().num_elements(); ++i) {
      if (i / c.head_dim % 3 != 0) continue;
      const double scaled = c.query_scale * values[static_cast<size_t>(i)];
      kernels::testing::Set(qkv_, i, static_cast<float>(scaled));
    }
  }
  problem_.qkv = Values(qkv_);
}

void SepAttentionTrial::Compute() { Run(true); }
void SepAttentionTrial::ComputeForward() { Run(false); }

void SepAttentionTrial::Run(bool backward) {
  const SepAttentionCase& c = case_;
  Stream stream;
  const AttentionIndex index(problem_.tokens, c.batch_size, c.seq_length, problem_.spec);
  const DeviceAttentionIndex device_index(stream, index);
  const int64_t window = c.kind == AttentionKind::kFull ? c.seq_length : c.window;
  const SepAttentionSize size = {c.dtype,     c.batch_size, c.seq_length,
                                 c.num_heads, c.head_dim,   window};
  if (c.use_dnn) {
    DnnAttention attention(size, c.dnn);
    RunWith(attention, stream, backward);
  } else {
    const SepAttention attention(size, device_index, c.allow_fallback);
    RunWith(attention, stream, backward);
  }
}

template <typename Attention>
void SepAttentionTrial::RunWith(Attention& attention, Stream& stream, bool backward) {
  kernel_name_ = attention.KernelName();

  const auto bytes = [](const OwnedTensor& t) { return static_cast<size_t>(t.view().num_bytes()); };
  const auto upload = [&](const OwnedTensor& tensor) {
    DeviceMemory memory(bytes(tensor));
    CopyToDevice(stream, memory.data<void>(), tensor.view().raw(), bytes(tensor));
    return memory;
  };
  const auto download = [&](const OwnedTensor& tensor, const DeviceMemory& memory) {
    CopyToHost(stream, tensor.view().raw(), memory.data<void>(), bytes(tensor));
  };
  const DeviceMemory qkv = upload(qkv_), dout = upload(dout_);
  const DeviceMemory out(bytes(out_)), lse(bytes(lse_)), dqkv(bytes(dqkv_));
  const SepAttentionTensors tensors = {.qkv = qkv.data<void>(),
                                       .out = out.data<void>(),
                                       .lse = lse.data<float>(),
                                       .dout = dout.data<void>(),
                                       .dqkv = dqkv.data<void>()};
  {
    const DeviceMemory scratch(attention.ScratchBytes());
    attention.Forward(stream, tensors, scratch.data<void>());
  }
  if (backward) {
    const DeviceMemory scratch(attention.ScratchBytes());
    attention.Backward(stream, tensors, scratch.data<void>());
    download(dqkv_, dqkv);
  }
  download(out_, out);
  download(lse_, lse);
  stream.Synchronize();
}

// fp32 arithmetic as in tests/kernels/sep_attention_test.cc: sums of D products, then of at most T
// probabilities, each addition half an ulp of what was summed; every exponent adds its rounding D
// times, forward and back; scaling, exponential, lse and division add a handful. On top of that,
// 16-bit kernels round probabilities and their gradients once before the second products.
void SepAttentionTrial::ExpectMatchesOracle() const {
  SCOPED_TRACE(case_.Describe());
  const double u = case_.dtype == DType::kFloat32 ? 0 : UnitRoundoff(case_.dtype);
  const auto forward = ::sepia::testing::AttentionForward(problem_);
  ExpectNear("lse", Values(lse_), forward.lse, std::vector<double>(forward.lse.value.size(), 0.0));

  // The magnitude of lse is the factor that the magnitude of out has over sum(p |v|).
  std::vector<double> rounding(forward.out.value.size());
  const auto dim = static_cast<size_t>(case_.head_dim),
             heads = static_cast<size_t>(case_.num_heads),
             length = static_cast<size_t>(case_.seq_length);
  for (size_t i = 0; i < rounding.size(); ++i) {
    const size_t head = i / dim % heads, token = i / dim / heads;
    const size_t row = (token / length * heads + head) * length + token % length;
    rounding[i] = u * (forward.out.magnitude[i] / forward.lse.magnitude[row] +
                       std::fabs(forward.out.value[i]));
  }
  ExpectNear("out", Values(out_), forward.out, rounding);

  const WithMagnitude dqkv =
      ::sepia::testing::AttentionBackward(problem_, Values(out_), Values(dout_));
  rounding.resize(dqkv.value.size());
  for (size_t i = 0; i < rounding.size(); ++i) {
    rounding[i] = u * (dqkv.magnitude[i] + std::fabs(dqkv.value[i]));
  }
  ExpectNear("dqkv", Values(dqkv_), dqkv, rounding);
}

void SepAttentionTrial::ExpectNear(const char* name, const std::vector<double>& actual,
                                   const WithMagnitude& expected,
                                   const std::vector<double>& half_error) const {
  const double length = static_cast<double>(case_.seq_length);
  const double k = 2.0 * (static_cast<double>(case_.head_dim) + length) + 32;
  // What vanishes or loses bits below the normal range: in fp16 half a subnormal step for each of T
  // probabilities times inputs below 2^3; otherwise as in tests/kernels/sep_attention_test.cc.
  const double smallest = case_.dtype == DType::kFloat16 ? 0x1p-22 * length : 0x1p-117;
  ASSERT_EQ(actual.size(), expected.value.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double bound = k * 0x1p-24 * expected.magnitude[i] + half_error[i] * 1.01 + smallest;
    ASSERT_LE(std::fabs(actual[i] - expected.value[i]), bound)
        << name << "[" << i << "] is " << actual[i] << ", not " << expected.value[i];
  }
}

void SepAttentionTrial::ExpectSame(const SepAttentionTrial& other) const {
  SCOPED_TRACE(case_.Describe() + " and " + other.case_.Describe());
  EXPECT_TRUE(SameBits(out_, other.out_));
  EXPECT_TRUE(SameBits(lse_, other.lse_));
  EXPECT_TRUE(SameBits(dqkv_, other.dqkv_));
}

}  // namespace sepia::kernels::cuda::testing
