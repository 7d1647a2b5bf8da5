// The stand-in of cuBLASLt: products on the host in fp32, and the refusals that NVIDIA documents
// (cuBLAS library user guide, "cublasLtMatmul()" and the comments of cublasLt.h):
//   INVALID_VALUE  missing handles or pointers; sizes that do not fit together; a leading dimension
//                  below the rows; a missing bias or aux pointer; an aux leading dimension that is
//                  no multiple of 8 or below the rows; less workspace than the algorithm needs; a
//                  workspace not aligned to 256 bytes; operands less aligned than the algorithm was
//                  chosen for
//   NOT_SUPPORTED  dtypes outside the table for CUBLAS_COMPUTE_32F; a bias or aux of another dtype
//                  than D; epilogues with row-major D; sizes beyond int32; an algorithm that was
//                  chosen for another problem
#include <cublasLt.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/emulation/libraries/device_range.h"
#include "kernels/cuda/emulation/streams.h"

using sepia::kernels::cuda::emulation::ElementSize;
using sepia::kernels::cuda::emulation::LoadElement;
using sepia::kernels::cuda::emulation::RequireOnDevice;
using sepia::kernels::cuda::emulation::RunOnStream;
using sepia::kernels::cuda::emulation::StoreElement;
using sepia::kernels::cuda::emulation::WorkKind;

struct cublasLtContext {};

struct cublasLtMatmulDescOpaque_t {
  int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  void* aux = nullptr;
  int64_t aux_ld = 0;
  int32_t bias_type = -1, aux_type = -1;  // -1: as D
};

struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  uint64_t rows, cols;
  int64_t ld;
  int32_t order = CUBLASLT_ORDER_COL;
};

struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace = 0;
  uint32_t schemes = 7;
  uint32_t alignment[4] = {256, 256, 256, 256};  // a, b, c, d
};

namespace {

using Layout = cublasLtMatrixLayoutOpaque_t;
using Operation = cublasLtMatmulDescOpaque_t;

// What an algorithm is made of here.
struct Algorithm {
  uint64_t problem = 0;  // a digest of the sizes, dtypes, operations it was chosen for
  uint64_t splits = 1;   // of the sum over k
  uint64_t workspace = 0;
  uint32_t alignment[4] = {};
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

bool Has(uint32_t epilogue, uint32_t bit) { return (epilogue & bit) != 0; }
bool HasGelu(uint32_t epilogue) { return Has(epilogue, 32); }
bool HasAux(uint32_t epilogue) { return Has(epilogue, 128); }
bool HasBias(uint32_t epilogue) { return Has(epilogue, CUBLASLT_EPILOGUE_BIAS); }
bool HasBiasGradient(uint32_t epilogue) { return Has(epilogue, CUBLASLT_EPILOGUE_BGRADB); }

template <typename T>
cublasStatus_t Take(const void* value, size_t size, T& field) {
  if (value == nullptr || size != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

// The product's sizes: D is m x n column by column, the sum runs over k.
struct Sizes {
  Sizes(const Operation& op, const Layout& a, const Layout& d)
      : m(static_cast<int64_t>(d.rows)),
        n(static_cast<int64_t>(d.cols)),
        k(static_cast<int64_t>(op.trans_a == CUBLAS_OP_N ? a.cols : a.rows)) {}
  int64_t m, n, k;
};

bool IsSupported(cudaDataType_t input, cudaDataType_t output) {
  return output == input || output == CUDA_R_32F;
}

cublasStatus_t CheckProblem(const Operation& op, const Layout& a, const Layout& b, const Layout& c,
                            const Layout& d) {
  if (a.type != b.type || c.type != d.type || !IsSupported(a.type, d.type)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  for (const Layout* layout : {&a, &b, &c, &d}) {
    if (layout->rows > INT32_MAX || layout->cols > INT32_MAX) return CUBLAS_STATUS_NOT_SUPPORTED;
    const uint64_t line = layout->order == CUBLASLT_ORDER_COL ? layout->rows : layout->cols;
    if (layout->ld < static_cast<int64_t>(line)) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const Sizes size(op, a, d);
  const bool n_a = op.trans_a == CUBLAS_OP_N, n_b = op.trans_b == CUBLAS_OP_N;
  const auto is = [](const Layout& layout, int64_t rows, int64_t cols) {
    return layout.rows == static_cast<uint64_t>(rows) && layout.cols == static_cast<uint64_t>(cols);
  };
  if (!is(a, n_a ? size.m : size.k, n_a ? size.k : size.m) ||
      !is(b, n_b ? size.k : size.n, n_b ? size.n : size.k) || !is(c, size.m, size.n)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (op.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_SUCCESS;
  if (d.order != CUBLASLT_ORDER_COL) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (HasBias(op.epilogue) || HasBiasGradient(op.epilogue)) {
    if (op.bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (op.bias_type != -1 && op.bias_type != d.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (HasAux(op.epilogue)) {
    if (op.aux == nullptr || op.aux_ld % 8 != 0 || op.aux_ld < size.m) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (op.aux_type != -1 && op.aux_type != d.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

uint64_t Digest(const Operation& op, const Layout& a, const Layout& b, const Layout& d) {
  uint64_t digest = 0xcbf29ce484222325u;
  const auto add = [&](uint64_t value) { digest = (digest ^ value) * 0x100000001b3u; };
  for (const Layout* layout : {&a, &b, &d}) {
    add(static_cast<uint64_t>(layout->type));
    add(layout->rows);
    add(layout->cols);
    add(static_cast<uint64_t>(layout->ld));
    add(static_cast<uint64_t>(layout->order));
  }
  add(static_cast<uint64_t>(op.trans_a));
  add(static_cast<uint64_t>(op.trans_b));
  add(op.epilogue);
  add(static_cast<uint64_t>(op.aux_ld));
  return digest;
}

int64_t At(const Layout& layout, int64_t row, int64_t column) {
  return layout.order == CUBLASLT_ORDER_COL ? row + column * layout.ld : row * layout.ld + column;
}

void RequireMatrix(const char* what, const void* data, const Layout& layout) {
  const int64_t last =
      At(layout, static_cast<int64_t>(layout.rows) - 1, static_cast<int64_t>(layout.cols) - 1);
  RequireOnDevice("cublasLtMatmul", what, data,
                  static_cast<size_t>(last + 1) * ElementSize(layout.type));
}

constexpr float kRootTwoOverPi = 0.7978845608028654f, kCubic = 0.044715f;

float Gelu(float x) {
  return 0.5f * x * (1 + std::tanh(kRootTwoOverPi * x * (1 + kCubic * x * x)));
}
float GeluSlope(float x) {
  const float tanh = std::tanh(kRootTwoOverPi * x * (1 + kCubic * x * x));
  const float inner = kRootTwoOverPi * (1 + 3 * kCubic * x * x);
  return 0.5f * (1 + tanh) + 0.5f * x * (1 - tanh * tanh) * inner;
}

// op(matrix) in fp32 with `lines` lines of `length`: element (line, i) is op(matrix)[i, line] where
// `transpose`, else [line, i].
std::vector<float> Widen(const void* data, const Layout& layout, bool transpose, int64_t lines,
                         int64_t length) {
  std::vector<float> wide(static_cast<size_t>(lines * length));
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t i = 0; i < length; ++i) {
      const int64_t from = transpose ? At(layout, i, line) : At(layout, line, i);
      wide[static_cast<size_t>(line * length + i)] = LoadElement(layout.type, data, from);
    }
  }
  return wide;
}

// Sums of one column of D over its parts of k, added in order.
void SumColumn(const std::vector<float>& a, const float* b, const Sizes& size, int64_t splits,
               std::vector<float>& sums, std::vector<float>& part) {
  std::fill(sums.begin(), sums.end(), 0.0f);
  const int64_t length = (size.k + splits - 1) / splits;
  for (int64_t begin = 0; begin < size.k; begin += length) {
    std::fill(part.begin(), part.end(), 0.0f);
    for (int64_t k = begin; k < std::min(size.k, begin + length); ++k) {
      const float* row = a.data() + k * size.m;
      for (size_t i = 0; i < part.size(); ++i) part[i] += row[i] * b[k];
    }
    for (size_t i = 0; i < part.size(); ++i) sums[i] += part[i];
  }
}

void StoreColumn(const Operation& op, const Layout& layout, void* d, int64_t column,
                 const std::vector<float>& sums) {
  for (int64_t row = 0; row < static_cast<int64_t>(sums.size()); ++row) {
    float value = sums[static_cast<size_t>(row)];
    const int64_t aux = row + column * op.aux_ld;
    if (HasBias(op.epilogue)) value += LoadElement(layout.type, op.bias, row);
    if (HasGelu(op.epilogue)) {
      if (HasAux(op.epilogue)) StoreElement(layout.type, op.aux, aux, value);
      value = Gelu(value);
    } else if (HasAux(op.epilogue)) {
      value *= GeluSlope(LoadElement(layout.type, op.aux, aux));
    }
    StoreElement(layout.type, d, At(layout, row, column), value);
  }
}

void Compute(const Operation& op, const Sizes& size, const Algorithm& algorithm, const void* a,
             const Layout& a_layout, const void* b, const Layout& b_layout, float beta, void* d,
             const Layout& d_layout) {
  // Both with k running as the loops below do.
  const std::vector<float> left = Widen(a, a_layout, op.trans_a == CUBLAS_OP_N, size.k, size.m);
  const std::vector<float> right = Widen(b, b_layout, op.trans_b == CUBLAS_OP_N, size.n, size.k);
  std::vector<float> sums(static_cast<size_t>(size.m)), part(sums.size());
  for (int64_t column = 0; column < size.n; ++column) {
    const float* factors = right.data() + column * size.k;
    SumColumn(left, factors, size, static_cast<int64_t>(algorithm.splits), sums, part);
    for (int64_t row = 0; beta != 0 && row < size.m; ++row) {
      sums[static_cast<size_t>(row)] +=
          beta * LoadElement(d_layout.type, d, At(d_layout, row, column));
    }
    StoreColumn(op, d_layout, d, column, sums);
    if (HasBiasGradient(op.epilogue)) {
      float sum = 0;
      for (int64_t k = 0; k < size.k; ++k) sum += factors[k];
      StoreElement(d_layout.type, op.bias, column, sum);
    }
  }
}

}  // namespace

size_t cublasLtGetVersion() { return 0; }

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    default: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t size) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return Take(value, size, desc->trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return Take(value, size, desc->trans_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return Take(value, size, desc->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return Take(value, size, desc->bias);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return Take(value, size, desc->aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return Take(value, size, desc->aux_ld);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: return Take(value, size, desc->aux_type);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return Take(value, size, desc->bias_type);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t, const void* value,
                                                size_t size) {
  return Take(value, size, layout->order);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t size) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return Take(value, size, preference->workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return Take(value, size, preference->schemes);
    default:
      return Take(value, size,
                  preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES]);
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* returned) {
  if (returned == nullptr || results == nullptr || requested < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  *returned = 0;
  if (handle == nullptr || desc == nullptr || a == nullptr || b == nullptr || c == nullptr ||
      d == nullptr || preference == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const cublasStatus_t status = CheckProblem(*desc, *a, *b, *c, *d);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  Algorithm algorithm;
  algorithm.problem = Digest(*desc, *a, *b, *d);
  std::copy_n(preference->alignment, 4, algorithm.alignment);
  // Long sums into few elements are split, if the partial sums may be kept in fp32 and fit.
  const Sizes size(*desc, *a, *d);
  const auto partial_sums = static_cast<uint64_t>(2 * size.m * size.n) * sizeof(float);
  if (size.k >= 4 * std::max(size.m, size.n) && partial_sums <= preference->workspace &&
      (preference->schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) != 0) {
    algorithm.splits = 2;
    algorithm.workspace = partial_sums;
  }
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof(algorithm));
  results[0].workspaceSize = algorithm.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  for (const void* part :
       {static_cast<const void*>(handle), static_cast<const void*>(desc), alpha, a, b, beta, c,
        static_cast<const void*>(d), static_cast<const void*>(algo)}) {
    if (part == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const cublasStatus_t status = CheckProblem(*desc, *a_layout, *b_layout, *c_layout, *d_layout);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  Algorithm algorithm;
  std::memcpy(static_cast<void*>(&algorithm), algo, sizeof(algorithm));
  if (algorithm.problem != Digest(*desc, *a_layout, *b_layout, *d_layout)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const void* operands[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (reinterpret_cast<uintptr_t>(operands[i]) % algorithm.alignment[i] != 0) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  if (workspace_bytes < algorithm.workspace || reinterpret_cast<uintptr_t>(workspace) % 256 != 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const Sizes size(*desc, *a_layout, *d_layout);
  RequireMatrix("A", a, *a_layout);
  RequireMatrix("B", b, *b_layout);
  RequireMatrix("D", d, *d_layout);
  RequireOnDevice("cublasLtMatmul", "the workspace", workspace, algorithm.workspace);
  const size_t element = ElementSize(d_layout->type);
  if (HasBias(desc->epilogue) || HasBiasGradient(desc->epilogue)) {
    const int64_t length = HasBias(desc->epilogue) ? size.m : size.n;
    RequireOnDevice("cublasLtMatmul", "the bias", desc->bias,
                    static_cast<size_t>(length) * element);
  }
  if (HasAux(desc->epilogue)) {
    const int64_t last = size.m - 1 + (size.n - 1) * desc->aux_ld;
    RequireOnDevice("cublasLtMatmul", "aux", desc->aux, static_cast<size_t>(last + 1) * element);
  }
  if (c != d || *static_cast<const float*>(alpha) != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  // Nothing of the caller's is looked at again: descriptors may go when this call returns.
  RunOnStream(stream, WorkKind::kLibrary,
              [op = *desc, size, algorithm, a, a_layout = *a_layout, b, b_layout = *b_layout,
               beta = *static_cast<const float*>(beta), d, d_layout = *d_layout] {
                Compute(op, size, algorithm, a, a_layout, b, b_layout, beta, d, d_layout);
              });
  return CUBLAS_STATUS_SUCCESS;
}
