#include "kernels/embedding.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

constexpr int64_t kPlaceGrain = 32;
constexpr int64_t kTokenGrain = 64;

// The places of each token, in order: places[begin[t]] ... places[begin[t + 1] - 1] (counting
// sort).
struct PlacesByToken {
  PlacesByToken(std::span<const int32_t> tokens, int64_t vocab_size)
      : begin(static_cast<size_t>(vocab_size) + 1), places(tokens.size()) {
    for (const int32_t token : tokens) ++begin[static_cast<size_t>(token) + 1];
    for (size_t t = 1; t < begin.size(); ++t) begin[t] += begin[t - 1];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (size_t place = 0; place < tokens.size(); ++place) {
      const auto token = static_cast<size_t>(tokens[place]);
      places[static_cast<size_t>(next[token]++)] = static_cast<int64_t>(place);
    }
  }

  std::vector<int64_t> begin;
  std::vector<int64_t> places;
};

template <typename T>
void AddRow(const T* dy, int64_t c, float* sum) {
  cpu::ForEachPiece(c, [&](int64_t begin, int64_t count) {
    float buffer[cpu::kPiece];
    const float* values = cpu::AsFloat(dy + begin, buffer, count);
    for (int64_t i = 0; i < count; ++i) sum[begin + i] += values[i];
  });
}

}  // namespace

void cpu::EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args) {
  const auto tokens = args.tokens.span<int32_t>();
  const int64_t row_bytes = args.table.dim(1) * DTypeSize(args.table.dtype());
  const auto* table = static_cast<const std::byte*>(args.table.raw());
  auto* y = static_cast<std::byte*>(args.y.raw());
  ParallelForRange(ctx, args.tokens.num_elements(), kPlaceGrain, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; ++place) {
      const int64_t token = tokens[static_cast<size_t>(place)];
      std::memcpy(y + place * row_bytes, table + token * row_bytes, static_cast<size_t>(row_bytes));
    }
  });
}

void cpu::EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args) {
  const int64_t c = args.dtable.dim(1);
  const PlacesByToken by_token(args.tokens.span<int32_t>(), args.dtable.dim(0));
  float* dtable = args.dtable.data<float>();
  DispatchCompute(args.dy.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* dy = args.dy.data<T>();
    ParallelForRange(ctx, args.dtable.dim(0), kTokenGrain, [&](int64_t first, int64_t last) {
      for (int64_t token = first; token < last; ++token) {
        float* row = dtable + token * c;
        if (args.grad_mode == GradMode::kOverwrite) std::fill_n(row, c, 0.0f);
        const int64_t end = by_token.begin[static_cast<size_t>(token) + 1];
        for (int64_t i = by_token.begin[static_cast<size_t>(token)]; i < end; ++i) {
          AddRow(dy + by_token.places[static_cast<size_t>(i)] * c, c, row);
        }
      }
    });
  });
}

}  // namespace sepia::kernels
