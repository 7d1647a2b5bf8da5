// cuda_counters DIM:SEQ...: runs Sep-Attention forward and backward of one head on the emulated
// device and prints what each kernel did, one JSON object a line. tools/cuda_gates/predict reads it.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/attention_index.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/sep_attention.h"

namespace {

using namespace sepia;                 // NOLINT: a tool of one file
using namespace sepia::kernels::cuda;  // NOLINT

constexpr int64_t kWindow = 64;
constexpr int32_t kInitial = 3, kSeparator = 7;

// One token in six is a separator, as in the 20B tokenizer's PG19 (16.4 %), at random places.
std::vector<int32_t> Tokens(int64_t seq_length) {
  std::vector<int32_t> tokens(static_cast<size_t>(seq_length), 0);
  uint32_t state = 1;
  for (int32_t& token : tokens) {
    state = 1664525u * state + 1013904223u;  // Numerical Recipes' generator
    if ((state >> 16) % 6 == 0) token = kSeparator;
  }
  return tokens;
}

DeviceMemory Zeros(Stream& stream, int64_t num_bytes) {
  DeviceMemory memory(static_cast<size_t>(num_bytes));
  SetBytes(stream, memory.data<void>(), 0, memory.size());
  return memory;
}

void Count(int64_t dim, int64_t seq_length) {
  const AttentionIndex index(
      Tokens(seq_length), 1, seq_length,
      {.kind = AttentionKind::kSep, .num_initial = kInitial, .separator_ids = {kSeparator}});
  Stream stream;
  const DeviceAttentionIndex on_device(stream, index);
  const SepAttention attention({DType::kBFloat16, 1, seq_length, 1, dim, kWindow}, on_device,
                               false);
  const int64_t row_bytes = 2 * dim * seq_length;
  const DeviceMemory qkv = Zeros(stream, 3 * row_bytes), out = Zeros(stream, row_bytes),
                     dout = Zeros(stream, row_bytes), dqkv = Zeros(stream, 3 * row_bytes),
                     lse = Zeros(stream, 4 * seq_length), scratch(attention.ScratchBytes());
  const SepAttentionTensors tensors = {.qkv = qkv.data<void>(),
                                       .out = out.data<void>(),
                                       .lse = lse.data<float>(),
                                       .dout = dout.data<void>(),
                                       .dqkv = dqkv.data<void>()};
  emulation::ResetCounters();
  attention.Forward(stream, tensors, scratch.data<void>());
  attention.Backward(stream, tensors, scratch.data<void>());
  for (const auto& [kernel, counted] : emulation::AllCounters()) {
    std::printf("{\"kernel\": \"%s\", \"dim\": %" PRId64 ", \"seq\": %" PRId64
                ", \"pairs\": %" PRId64 ", \"packed\": %" PRId64 ", \"blocks\": %" PRId64
                ", \"mma\": %" PRId64 ", \"async_copies\": %" PRId64 "}\n",
                kernel.c_str(), dim, seq_length, index.VisiblePairs(kWindow), index.max_packed(),
                counted.blocks, counted.mma, counted.async_copies);
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    char* rest = nullptr;
    const int64_t dim = std::strtoll(argv[i], &rest, 10);
    Count(dim, std::strtoll(rest + 1, nullptr, 10));
  }
  return argc > 1 ? 0 : 2;
}
