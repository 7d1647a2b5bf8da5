#include "kernels/embedding.h"

#include "kernels/check_args.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"

namespace sepia::kernels {
namespace {

void CheckTokens(const ConstTensorView& tokens, int64_t vocab_size) {
  CHECK(tokens.rank() == 2, "tokens is {}, expected [B, T]", tokens.shape());
  if (tokens.device() != Device::kCpu) return;
  for (const int32_t token : tokens.span<int32_t>()) {
    CHECK(token >= 0 && token < vocab_size, "token {} of a vocabulary of {}", token, vocab_size);
  }
}

}  // namespace

void EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.table, "table");
  CheckComputeDType(args.table.dtype(), "table");
  CheckTokens(args.tokens, args.vocabulary.vocab_size(args.table.dim(0)));
  CheckTensor(args.y, "y", args.table.dtype(),
              {args.tokens.dim(0), args.tokens.dim(1), args.table.dim(1)});
  OnCuda(ctx) ? cuda::EmbeddingForward(ctx, args) : cpu::EmbeddingForward(ctx, args);
}

void EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args) {
  CheckDevice(ctx);
  CheckMatrix(args.dtable, "dtable");
  CheckComputeDType(args.dy.dtype(), "dy");
  CheckTokens(args.tokens, args.vocabulary.vocab_size(args.dtable.dim(0)));
  CheckTensor(args.dtable, "dtable", DType::kFloat32, args.dtable.shape());
  CheckTensor(args.dy, "dy", args.dy.dtype(),
              {args.tokens.dim(0), args.tokens.dim(1), args.dtable.dim(1)});
  OnCuda(ctx) ? cuda::EmbeddingBackward(ctx, args) : cpu::EmbeddingBackward(ctx, args);
}

int64_t EmbeddingScratchBytes(int64_t num_tokens, int64_t rows, Device device) {
  return device == Device::kCuda ? cuda::EmbeddingScratchBytes(num_tokens)
                                 : cpu::EmbeddingScratchBytes(num_tokens, rows);
}

}  // namespace sepia::kernels
