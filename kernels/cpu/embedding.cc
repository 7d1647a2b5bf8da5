#include "kernels/embedding.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "kernels/cpu/isa/sum_rows.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels {
namespace {

constexpr int64_t kPlaceGrain = 32;
constexpr int64_t kRowGrain = 64;

// The row of a token in a part that begins at `first` and has `rows` rows; -1 in another part.
int64_t RowOf(int32_t token, int64_t first, int64_t rows) {
  const int64_t row = token - first;
  return row >= 0 && row < rows ? row : -1;
}

// The places of each row's token, in order: places[begin(r)] ... places[end(r) - 1] (counting
// sort).
struct PlacesByRow {
  PlacesByRow(ScratchScope& scratch, std::span<const int32_t> tokens, int64_t first, int64_t rows)
      : ends(scratch.Allocate("embedding.ends", DType::kInt32, {rows + 2}).span<int32_t>()),
        places(
            scratch
                .Allocate("embedding.places", DType::kInt32, {static_cast<int64_t>(tokens.size())})
                .span<int32_t>()) {
    // Two places late, the numbers of tokens become begins, and the begins ends.
    std::fill(ends.begin(), ends.end(), 0);
    for (const int32_t token : tokens) {
      const int64_t row = RowOf(token, first, rows);
      if (row >= 0) ++ends[static_cast<size_t>(row) + 2];
    }
    for (size_t r = 2; r < ends.size(); ++r) ends[r] += ends[r - 1];
    for (size_t place = 0; place < tokens.size(); ++place) {
      const int64_t row = RowOf(tokens[place], first, rows);
      if (row < 0) continue;
      const int32_t slot = ends[static_cast<size_t>(row) + 1]++;
      places[static_cast<size_t>(slot)] = static_cast<int32_t>(place);
    }
  }

  int32_t begin(int64_t row) const { return ends[static_cast<size_t>(row)]; }
  int32_t end(int64_t row) const { return ends[static_cast<size_t>(row) + 1]; }

  std::span<int32_t> ends;  // [rows + 2]
  std::span<int32_t> places;
};

}  // namespace

void cpu::EmbeddingForward(Context& ctx, const EmbeddingForwardArgs& args) {
  const auto tokens = args.tokens.span<int32_t>();
  const int64_t row_bytes = args.table.dim(1) * DTypeSize(args.table.dtype());
  const auto* table = static_cast<const std::byte*>(args.table.raw());
  auto* y = static_cast<std::byte*>(args.y.raw());
  const int64_t rows = args.table.dim(0);
  const int64_t first = args.vocabulary.first(rows);
  ParallelForRange(ctx, args.tokens.num_elements(), kPlaceGrain, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; ++place) {
      const int64_t row = RowOf(tokens[static_cast<size_t>(place)], first, rows);
      const auto size = static_cast<size_t>(row_bytes);
      if (row < 0) {
        std::memset(y + place * row_bytes, 0, size);
      } else {
        std::memcpy(y + place * row_bytes, table + row * row_bytes, size);
      }
    }
  });
}

void cpu::EmbeddingBackward(Context& ctx, const EmbeddingBackwardArgs& args) {
  const int64_t c = args.dtable.dim(1);
  const int64_t rows = args.dtable.dim(0);
  ScratchScope scratch(*ctx.scratch);
  const PlacesByRow by_row(scratch, args.tokens.span<int32_t>(), args.vocabulary.first(rows), rows);
  float* dtable = args.dtable.data<float>();
  const DType dtype = args.dy.dtype();
  const auto* dy = static_cast<const std::byte*>(args.dy.raw());
  ParallelForRange(ctx, rows, kRowGrain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float* row = dtable + r * c;
      if (args.grad_mode == GradMode::kOverwrite) std::fill_n(row, c, 0.0f);
      for (int32_t i = by_row.begin(r); i < by_row.end(r); ++i) {
        const int64_t place = by_row.places[static_cast<size_t>(i)];
        SEPIA_BY_ISA(AddToSums)(dtype, dy + place * c * DTypeSize(dtype), c, row);
      }
    }
  });
}

int64_t cpu::EmbeddingScratchBytes(int64_t num_tokens, int64_t rows) {
  return (num_tokens + rows + 2) * DTypeSize(DType::kInt32) + 2 * Arena::kAlignment;
}

}  // namespace sepia::kernels
