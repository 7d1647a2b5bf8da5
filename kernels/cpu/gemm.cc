#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <vector>

#include "base/integer.h"
#include "kernels/cpu/amx/gemm.h"
#include "kernels/cpu/isa/finish_sums.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels::cpu {
namespace {

// The largest of these tiles that leaves kFewTiles is taken. Large tiles save the backend copies of
// its operands; results other than fp32 pass through a tile of fp32, which has to stay in cache.
struct TileSize {
  int64_t rows, cols;
};
constexpr TileSize kTileSizes[] = {{512, 768}, {256, 768}, {256, 384}};
constexpr int64_t kFewTiles = 4;
// Sums of more than twice this length are cut too, until there are kWantedPieces.
constexpr int64_t kSplitDepth = 2048;
constexpr int64_t kWantedPieces = 16;

// Nearly equal parts of at most `limit`, multiples of 32 but for the last.
int64_t PartSize(int64_t size, int64_t limit) {
  const int64_t num_parts = CeilDiv(size, limit);
  return RoundUp(CeilDiv(size, num_parts), 32);
}

struct Cut {
  int64_t rows, cols, depth;               // of one piece
  int64_t num_rows, num_cols, num_depths;  // pieces in each direction

  int64_t num_tiles() const { return num_rows * num_cols; }
};

TileSize ChooseTile(int64_t m, int64_t n, DType c_dtype) {
  for (const TileSize& size : kTileSizes) {
    if (c_dtype != DType::kFloat32 && size.rows > 256) continue;
    if (CeilDiv(m, size.rows) * CeilDiv(n, size.cols) >= kFewTiles) return size;
  }
  return kTileSizes[2];
}

// Requires m, n, k >= 1.
Cut CutProduct(int64_t m, int64_t n, int64_t k, DType c_dtype) {
  const TileSize tile = ChooseTile(m, n, c_dtype);
  Cut cut{};
  cut.rows = std::min(m, PartSize(m, tile.rows));
  cut.cols = std::min(n, PartSize(n, tile.cols));
  cut.num_rows = CeilDiv(m, cut.rows);
  cut.num_cols = CeilDiv(n, cut.cols);
  const int64_t wanted = CeilDiv(kWantedPieces, cut.num_tiles());
  const int64_t parts =
      cut.num_tiles() > kWantedPieces / 2 ? 1 : std::clamp(k / kSplitDepth, int64_t{1}, wanted);
  cut.depth = std::min(k, PartSize(k, CeilDiv(k, parts)));
  cut.num_depths = CeilDiv(k, cut.depth);
  return cut;
}

int64_t PartialBytes(const Cut& cut, int64_t m, int64_t n) {
  return cut.num_depths * m * n * static_cast<int64_t>(sizeof(float));
}

struct Region {
  int64_t row, col, rows, cols;
};

// Rows of `sums` (sum_stride apart; the region's first element first) into the region of c.
void Finish(const GemmArgs& args, const Region& region, const float* sums, int64_t sum_stride,
            GradMode mode) {
  const int64_t n = args.c.dim(1);
  const DType bias_dtype = args.bias.empty() ? DType::kFloat32 : args.bias.dtype();
  const auto at = [](auto* base, DType dtype, int64_t element) {
    return base + element * DTypeSize(dtype);
  };
  SEPIA_BY_ISA(FinishSums)
  ({.rows = region.rows,
    .cols = region.cols,
    .sums = sums,
    .sum_stride = sum_stride,
    .bias = args.bias.empty()
                ? nullptr
                : at(static_cast<const std::byte*>(args.bias.raw()), bias_dtype, region.col),
    .bias_dtype = bias_dtype,
    .out = at(static_cast<std::byte*>(args.c.raw()), args.c.dtype(), region.row * n + region.col),
    .out_dtype = args.c.dtype(),
    .out_stride = n,
    .accumulate = mode == GradMode::kAccumulate});
}

MatrixRef Offset(const MatrixRef& matrix, DType dtype, int64_t row, int64_t col) {
  const int64_t elements = row * matrix.row_stride + col * matrix.col_stride;
  return {static_cast<const std::byte*>(matrix.data) + elements * DTypeSize(dtype),
          matrix.row_stride, matrix.col_stride};
}

TileProduct MakeTile(const GemmArgs& args, const Region& region, int64_t begin, int64_t depth) {
  return {.m = region.rows,
          .n = region.cols,
          .k = depth,
          .dtype = args.dtype,
          .a = Offset(args.a, args.dtype, region.row, begin),
          .b = Offset(args.b, args.dtype, begin, region.col),
          .c = nullptr,
          .c_row_stride = 0,
          .accumulate = false};
}

Region TileRegion(const Cut& cut, int64_t tile, int64_t m, int64_t n) {
  const int64_t row = tile / cut.num_cols * cut.rows;
  const int64_t col = tile % cut.num_cols * cut.cols;
  return {row, col, std::min(cut.rows, m - row), std::min(cut.cols, n - col)};
}

// k == 0: the product is zero.
void FinishZero(Context& ctx, const GemmArgs& args) {
  const std::vector<float> zeros(static_cast<size_t>(args.c.dim(1)));
  ParallelFor(ctx, args.c.dim(0), [&](int64_t row) {
    Finish(args, {row, 0, 1, args.c.dim(1)}, zeros.data(), 0, args.mode);
  });
}

// fp32 results are summed in place; others in a tile of fp32 per thread, then rounded.
void MultiplyTiles(Context& ctx, const GemmArgs& args, const Cut& cut) {
  const int64_t m = args.c.dim(0);
  const int64_t n = args.c.dim(1);
  const bool direct = args.c.dtype() == DType::kFloat32;
  ScratchScope scratch(*ctx.scratch);
  float* sums = nullptr;
  if (!direct) {
    sums = scratch.Allocate("gemm.tile", DType::kFloat32, {ctx.num_threads, cut.rows, cut.cols})
               .data<float>();
  }
  ParallelFor(ctx, cut.num_tiles(), [&](int64_t tile) {
    const Region region = TileRegion(cut, tile, m, n);
    TileProduct product = MakeTile(args, region, 0, args.k);
    if (direct) {
      product.c = args.c.data<float>() + region.row * n + region.col;
      product.c_row_stride = n;
      product.accumulate = args.mode == GradMode::kAccumulate;
    } else {
      product.c = sums + ThreadIndex() * cut.rows * cut.cols;
      product.c_row_stride = cut.cols;
    }
    MultiplyTile(product);
    if (direct && args.bias.empty()) return;
    const GradMode mode = direct ? GradMode::kOverwrite : args.mode;
    Finish(args, region, product.c, product.c_row_stride, mode);
  });
}

// Few tiles, long sums: each part of the depth into its own [m, n], then added in order.
void MultiplyParts(Context& ctx, const GemmArgs& args, const Cut& cut) {
  const int64_t m = args.c.dim(0);
  const int64_t n = args.c.dim(1);
  ScratchScope scratch(*ctx.scratch);
  float* partial =
      scratch.Allocate("gemm.parts", DType::kFloat32, {cut.num_depths, m, n}).data<float>();
  ParallelFor(ctx, cut.num_tiles() * cut.num_depths, [&](int64_t item) {
    const Region region = TileRegion(cut, item / cut.num_depths, m, n);
    const int64_t part = item % cut.num_depths;
    const int64_t begin = part * cut.depth;
    TileProduct product = MakeTile(args, region, begin, std::min(cut.depth, args.k - begin));
    product.c = partial + part * m * n + region.row * n + region.col;
    product.c_row_stride = n;
    MultiplyTile(product);
  });
  ParallelFor(ctx, m, [&](int64_t row) {
    float* sum = partial + row * n;
    for (int64_t part = 1; part < cut.num_depths; ++part) {
      const float* other = sum + part * m * n;
      for (int64_t i = 0; i < n; ++i) sum[i] += other[i];
    }
    Finish(args, {row, 0, 1, n}, sum, n, args.mode);
  });
}

const amx::GemmCode* TileCodeFor(DType dtype) {
  return dtype == DType::kBFloat16 ? amx::ActiveGemmCode() : nullptr;
}

}  // namespace

void Gemm(Context& ctx, const GemmArgs& args) {
  if (args.c.num_elements() == 0) return;
  if (args.k == 0) return FinishZero(ctx, args);
  const amx::GemmCode* tiles = TileCodeFor(args.dtype);
  if (tiles != nullptr) return amx::Gemm(ctx, args, *tiles);
  const Cut cut = CutProduct(args.c.dim(0), args.c.dim(1), args.k, args.c.dtype());
  if (cut.num_depths == 1) return MultiplyTiles(ctx, args, cut);
  MultiplyParts(ctx, args, cut);
}

int64_t GemmScratchBytes(int64_t m, int64_t n, int64_t k, DType dtype, DType c_dtype,
                         int num_threads) {
  if (m == 0 || n == 0 || k == 0) return 0;
  if (TileCodeFor(dtype) != nullptr) return amx::GemmScratchBytes(m, n, k, num_threads);
  const Cut cut = CutProduct(m, n, k, c_dtype);
  if (cut.num_depths > 1) return PartialBytes(cut, m, n) + Arena::kAlignment;
  if (c_dtype == DType::kFloat32) return 0;
  return num_threads * cut.rows * cut.cols * static_cast<int64_t>(sizeof(float)) +
         Arena::kAlignment;
}

std::string GemmBackendName(DType dtype) {
  return TileCodeFor(dtype) != nullptr ? "own amx" : TileBackendName(dtype);
}

}  // namespace sepia::kernels::cpu
