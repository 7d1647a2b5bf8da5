#include "kernels/cpu/amx/gemm.h"

#include <algorithm>

#include "base/integer.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"

namespace sepia::kernels::cpu::amx {
namespace {

// Panels are multiplied in parts of this depth: a left and a right part are 16 KB each and stay in
// the first-level cache together. The result's sums wait in the second-level cache meanwhile.
constexpr int64_t kDepth = 256;
constexpr int64_t kMaxSlabDepth = 8192;
constexpr int64_t kMaxSlabElements = int64_t{8} << 20;

// Tasks of the result: the largest of these that leaves kFewTasks is taken. Sums of one task and
// the right operand's part that goes with them fill half a second-level cache of 2 MiB.
struct TaskSize {
  int64_t rows, cols;
};
constexpr TaskSize kTaskSizes[] = {{256, 768}, {128, 768}, {128, 384}, {64, 384}, {64, 192}};
constexpr int64_t kFewTasks = 8;

// How a product is cut, by its shape alone.
struct Cut {
  int64_t rows, cols;             // of a task, multiples of kPanelLines
  int64_t slab_cols, slab_depth;  // of the packed right operand
  int64_t num_row_tasks;
  bool many_depths;  // sums of a task wait for the next slab
};

Cut CutProduct(int64_t m, int64_t n, int64_t k) {
  TaskSize task = kTaskSizes[0];
  for (const TaskSize& size : kTaskSizes) {
    task = size;
    if (CeilDiv(m, size.rows) * CeilDiv(n, size.cols) >= kFewTasks) break;
  }
  Cut cut{};
  // Nearly equal tasks.
  cut.rows = RoundUp(CeilDiv(m, CeilDiv(m, task.rows)), kPanelLines);
  cut.cols = RoundUp(CeilDiv(n, CeilDiv(n, task.cols)), kPanelLines);
  cut.slab_depth = std::min(RoundUp(k, kPanelStep), kMaxSlabDepth);
  const int64_t tasks_wide = std::max<int64_t>(1, kMaxSlabElements / cut.slab_depth / cut.cols);
  cut.slab_cols = std::min(RoundUp(n, cut.cols), tasks_wide * cut.cols);
  cut.num_row_tasks = CeilDiv(m, cut.rows);
  cut.many_depths = k > cut.slab_depth;
  return cut;
}

constexpr int64_t kLeftBytes = kDepth / kPanelStep * kStepBytes;

int64_t SlabBytes(const Cut& cut) {
  return CeilDiv(cut.slab_cols, kPanelLines) * (cut.slab_depth / kPanelStep) * kStepBytes;
}

// Sets of sums alive at one time: one a thread, or one a task.
int64_t NumSums(const Cut& cut, int num_threads) {
  return cut.many_depths ? cut.num_row_tasks * (cut.slab_cols / cut.cols) : num_threads;
}

PanelSource LeftPanel(const MatrixRef& a, int64_t row, int64_t rows, int64_t begin, int64_t depth) {
  const auto* data = static_cast<const BFloat16*>(a.data);
  return {data + row * a.row_stride + begin * a.col_stride, a.row_stride, a.col_stride,
          std::min(rows, kPanelLines), depth};
}

PanelSource RightPanel(const MatrixRef& b, int64_t col, int64_t cols, int64_t begin,
                       int64_t depth) {
  return LeftPanel(b.Transposed(), col, cols, begin, depth);
}

// One product, slab by slab of the right operand.
class TiledProduct {
 public:
  TiledProduct(Context& ctx, const GemmArgs& args, const GemmCode& code)
      : ctx_(ctx),
        args_(args),
        code_(code),
        m_(args.c.dim(0)),
        n_(args.c.dim(1)),
        cut_(CutProduct(m_, n_, args.k)),
        scratch_(*ctx.scratch) {
    slab_ = Allocate<std::byte>("gemm.slab", DType::kUInt8, SlabBytes(cut_));
    left_ = Allocate<std::byte>("gemm.left", DType::kUInt8, ctx.num_threads * kLeftBytes);
    sums_ = Allocate<float>("gemm.sums", DType::kFloat32,
                            NumSums(cut_, ctx.num_threads) * cut_.rows * cut_.cols);
    bias_ = WidenedBias();
  }

  void Run() {
    for (int64_t col = 0; col < n_; col += cut_.slab_cols) {
      for (int64_t begin = 0; begin < args_.k; begin += cut_.slab_depth) {
        const Slab slab{col, std::min(cut_.slab_cols, n_ - col), begin,
                        std::min(cut_.slab_depth, args_.k - begin)};
        PackSlab(slab);
        const int64_t task_cols = CeilDiv(slab.cols, cut_.cols);
        ParallelFor(ctx_, cut_.num_row_tasks * task_cols,
                    [&](int64_t task) { RunTask(slab, task, task_cols); });
      }
    }
  }

 private:
  // Columns [col, col + cols) and depths [begin, begin + depth) of the right operand.
  struct Slab {
    int64_t col, cols, begin, depth;
    int64_t num_panels() const { return CeilDiv(cols, kPanelLines); }
  };
  // A task's columns, counted from the slab's first, and 32 of its rows; `rows` counts to its end.
  struct Strip {
    int64_t row, rows, col, cols;
  };

  template <typename T>
  T* Allocate(const char* name, DType dtype, int64_t size) {
    return static_cast<T*>(scratch_.Allocate(name, dtype, {size}).raw());
  }

  const float* WidenedBias() {
    if (args_.bias.empty()) return nullptr;
    auto* bias = Allocate<float>("gemm.bias", DType::kFloat32, n_);
    DispatchCompute(args_.bias.dtype(), [&](auto tag) {
      using T = decltype(tag);
      const T* values = args_.bias.data<T>();
      std::copy_n(AsFloat(values, bias, n_), n_, bias);
    });
    return bias;
  }

  // Parts of the depth one after the other, each with all panels.
  std::byte* Packed(const Slab& slab, int64_t depth, int64_t panel) const {
    const int64_t steps_before = depth / kPanelStep * slab.num_panels();
    return slab_ + (steps_before + panel * PartSteps(slab, depth)) * kStepBytes;
  }
  static int64_t PartSteps(const Slab& slab, int64_t depth) {
    return CeilDiv(std::min(kDepth, slab.depth - depth), kPanelStep);
  }

  void PackSlab(const Slab& slab) const {
    ParallelFor(ctx_, slab.num_panels(), [&](int64_t panel) {
      const int64_t col = panel * kPanelLines;
      for (int64_t depth = 0; depth < slab.depth; depth += kDepth) {
        code_.pack_right(RightPanel(args_.b, slab.col + col, slab.cols - col, slab.begin + depth,
                                    std::min(kDepth, slab.depth - depth)),
                         Packed(slab, depth, panel));
      }
    });
  }

  void RunTask(const Slab& slab, int64_t task, int64_t task_cols) const {
    const int64_t first_row = task / task_cols * cut_.rows;
    const int64_t col = task % task_cols * cut_.cols;
    const int64_t rows = std::min(cut_.rows, m_ - first_row);
    const int64_t cols = std::min(cut_.cols, slab.cols - col);
    const int64_t place = cut_.many_depths ? task : ThreadIndex();
    for (int64_t depth = 0; depth < slab.depth; depth += kDepth) {
      for (int64_t row = 0; row < rows; row += kPanelLines) {
        float* sums = sums_ + (place * cut_.rows + row) * cut_.cols;
        MultiplyStrip(slab, depth, {first_row + row, rows - row, col, cols}, sums);
      }
    }
  }

  // The part of the sums that begins at `depth` of the slab.
  void MultiplyStrip(const Slab& slab, int64_t depth, const Strip& strip, float* sums) const {
    const int64_t begin = slab.begin + depth;
    const int64_t size = std::min(kDepth, slab.depth - depth);
    const bool is_first = begin == 0;
    const bool is_last = begin + size == args_.k;
    std::byte* left = left_ + ThreadIndex() * kLeftBytes;
    code_.pack_left(LeftPanel(args_.a, strip.row, strip.rows, begin, size), left);
    const int64_t packed_rows = std::min(strip.rows, kPanelLines);
    code_.multiply({.steps = PartSteps(slab, depth),
                    .left = left,
                    .right = Packed(slab, depth, strip.col / kPanelLines),
                    .num_right = CeilDiv(strip.cols, kPanelLines),
                    .sums = sums,
                    .sums_stride = is_first && is_last ? 0 : kBlockFloats,
                    .accumulate = !is_first,
                    .is_last = is_last,
                    .result = Result(strip.row, packed_rows, slab.col + strip.col, strip.cols),
                    .prefetched = LeftPanel(args_.a, strip.row + packed_rows,
                                            strip.rows - packed_rows, begin, size)});
  }

  GemmResult Result(int64_t row, int64_t rows, int64_t col, int64_t cols) const {
    const int64_t place = (row * n_ + col) * DTypeSize(args_.c.dtype());
    return {.rows = rows,
            .cols = cols,
            .out = static_cast<std::byte*>(args_.c.raw()) + place,
            .is_bf16 = args_.c.dtype() == DType::kBFloat16,
            .stride = n_,
            .bias = bias_ == nullptr ? nullptr : bias_ + col,
            .accumulate = args_.mode == GradMode::kAccumulate};
  }

  Context& ctx_;
  const GemmArgs& args_;
  const GemmCode& code_;
  int64_t m_, n_;
  Cut cut_;
  ScratchScope scratch_;
  std::byte* slab_;
  std::byte* left_;  // one panel a thread
  float* sums_;
  const float* bias_;
};

}  // namespace

const GemmCode* ActiveGemmCode() {
  return ActiveIsa() >= Isa::kAmx ? &hardware::kGemmCode : nullptr;
}

void Gemm(Context& ctx, const GemmArgs& args, const GemmCode& code) {
  CHECK(args.c.dtype() == DType::kBFloat16 || args.c.dtype() == DType::kFloat32);
  TiledProduct(ctx, args, code).Run();
}

int64_t GemmScratchBytes(int64_t m, int64_t n, int64_t k, int num_threads) {
  const Cut cut = CutProduct(m, n, k);
  const int64_t num_floats = NumSums(cut, num_threads) * cut.rows * cut.cols + n;
  return SlabBytes(cut) + num_threads * kLeftBytes + num_floats * DTypeSize(DType::kFloat32) +
         4 * Arena::kAlignment;
}

}  // namespace sepia::kernels::cpu::amx
