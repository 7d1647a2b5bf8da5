// Row-major products as cuBLASLt sees them: a row-major matrix is its transpose column by column,
// so out = A B is asked for as out^T = B^T A^T. (Row-major layouts would do without the exchange,
// but the library has no epilogues for them.)
#include "kernels/cuda/blas.h"

#include <cublasLt.h>

#include <array>
#include <map>
#include <string>
#include <tuple>

namespace sepia::kernels::cuda {
namespace {

void Check(cublasStatus_t status, const char* call, const Where& where) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + ": " + cublasLtGetStatusString(status), where);
}

void Require(bool ok, const std::string& what, const Where& where) {
  if (!ok) throw DeviceError("matrix product: " + what, where);
}

cudaDataType_t TypeOf(DType dtype) {
  return dtype == DType::kBFloat16  ? CUDA_R_16BF
         : dtype == DType::kFloat16 ? CUDA_R_16F
                                    : CUDA_R_32F;
}

// A descriptor of the library and its end.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
class Descriptor {
 public:
  template <typename Create, typename... Args>
  explicit Descriptor(const Where& where, const char* call, Create create, Args... args)
      : where_(where) {
    Check(create(&handle_, args...), call, where);
  }
  ~Descriptor() { kDestroy(handle_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  template <typename Setter, typename Attribute, typename T>
  void Set(Setter setter, Attribute attribute, T value) {
    Check(setter(handle_, attribute, &value, sizeof(value)), "cublasLt attribute", where_);
  }
  operator Handle() const { return handle_; }  // NOLINT: stands for the handle

 private:
  Handle handle_ = nullptr;
  Where where_;
};
using Operation = Descriptor<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Descriptor<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Descriptor<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// 16 where the address allows it, else the size of an element.
uint32_t AlignmentClass(const void* address, DType dtype) {
  const bool is_aligned = reinterpret_cast<uintptr_t>(address) % 16 == 0;
  return is_aligned ? 16 : static_cast<uint32_t>(DTypeSize(dtype));
}

// The pointer that the epilogue takes as "bias": the library names both so.
const void* BiasPointer(const MatrixProduct& p) {
  return p.epilogue == Epilogue::kBiasGradient ? p.bias_gradient : p.bias;
}

bool HasBias(Epilogue epilogue) {
  return epilogue != Epilogue::kNone && epilogue != Epilogue::kGeluBackward;
}
bool HasAux(Epilogue epilogue) {
  return epilogue == Epilogue::kGeluBiasAux || epilogue == Epilogue::kGeluBackward;
}

cublasLtEpilogue_t EpilogueOf(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::kBias: return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::kGeluBias: return CUBLASLT_EPILOGUE_GELU_BIAS;
    case Epilogue::kGeluBiasAux: return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::kGeluBackward: return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::kBiasGradient: return CUBLASLT_EPILOGUE_BGRADB;
    default: return CUBLASLT_EPILOGUE_DEFAULT;
  }
}

// What tells one choice of algorithm from another.
using Alignments = std::array<uint32_t, 5>;  // a, b, out, bias, aux
using Key = std::tuple<DType, DType, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                       bool, bool, bool, Epilogue, Alignments>;

Alignments AlignmentsOf(const MatrixProduct& p) {
  return {AlignmentClass(p.a.data, p.dtype), AlignmentClass(p.b.data, p.dtype),
          AlignmentClass(p.out, p.out_dtype), AlignmentClass(BiasPointer(p), p.out_dtype),
          AlignmentClass(p.aux, p.out_dtype)};
}

Key KeyOf(const MatrixProduct& p) {
  return {p.dtype,
          p.out_dtype,
          p.m,
          p.n,
          p.k,
          p.a.stride,
          p.b.stride,
          p.out_stride,
          p.aux_stride,
          p.a.transposed,
          p.b.transposed,
          p.accumulate,
          p.epilogue,
          AlignmentsOf(p)};
}

void CheckOperand(const MatrixOperand& operand, DType dtype, int64_t row_length, const char* name,
                  const Where& where) {
  Require(operand.data != nullptr, std::string(name) + " is missing", where);
  Require(operand.stride >= row_length,
          std::string("rows of ") + name + " are " + std::to_string(row_length) +
              " elements long, but only " + std::to_string(operand.stride) + " apart",
          where);
  Require(reinterpret_cast<uintptr_t>(operand.data) % static_cast<size_t>(DTypeSize(dtype)) == 0,
          std::string(name) + " is not aligned to its elements", where);
}

void CheckProduct(const MatrixProduct& p, const Where& where) {
  const auto is_compute = [](DType dtype) {
    return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
  };
  Require(is_compute(p.dtype) && (p.out_dtype == p.dtype || p.out_dtype == DType::kFloat32),
          "no product of " + std::string(DTypeName(p.dtype)) + " into " +
              std::string(DTypeName(p.out_dtype)),
          where);
  Require(p.k > 0, "nothing to sum over (k = 0)", where);
  Require(p.m <= INT32_MAX && p.n <= INT32_MAX && p.k <= INT32_MAX, "a size beyond 2^31", where);
  CheckOperand(p.a, p.dtype, p.a.transposed ? p.m : p.k, "a", where);
  CheckOperand(p.b, p.dtype, p.b.transposed ? p.k : p.n, "b", where);
  CheckOperand({p.out, p.out_stride}, p.out_dtype, p.n, "out", where);
  if (HasBias(p.epilogue)) CheckOperand({BiasPointer(p), 1}, p.out_dtype, 1, "bias", where);
  if (HasAux(p.epilogue)) {
    CheckOperand({p.aux, p.aux_stride}, p.out_dtype, p.n, "aux", where);
    Require(p.aux_stride % 8 == 0, "the stride of aux is no multiple of 8", where);
  }
}

// The descriptors of a product, with the library's exchange of a and b.
struct Described {
  Described(const MatrixProduct& p, const Where& where)
      : operation(where, "cublasLtMatmulDescCreate", cublasLtMatmulDescCreate, CUBLAS_COMPUTE_32F,
                  CUDA_R_32F),
        left(LayoutOf(p.b, p.dtype, p.n, p.k, where)),
        right(LayoutOf(p.a, p.dtype, p.k, p.m, where)),
        out(where, "cublasLtMatrixLayoutCreate", cublasLtMatrixLayoutCreate, TypeOf(p.out_dtype),
            static_cast<uint64_t>(p.n), static_cast<uint64_t>(p.m), p.out_stride) {
    Set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t{p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N});
    Set(CUBLASLT_MATMUL_DESC_TRANSB, int32_t{p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N});
    Set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(EpilogueOf(p.epilogue)));
    if (HasBias(p.epilogue)) {
      Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t{TypeOf(p.out_dtype)});
    }
    if (HasAux(p.epilogue)) {
      Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.aux_stride);
      Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, int32_t{TypeOf(p.out_dtype)});
    }
  }

  // The heuristic reads nothing but the alignment from these.
  void SetPointers(Epilogue epilogue, const void* bias, const void* aux) {
    if (HasBias(epilogue)) Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (HasAux(epilogue)) Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux);
  }

  Operation operation;
  Layout left, right, out;

 private:
  template <typename T>
  void Set(cublasLtMatmulDescAttributes_t attribute, T value) {
    operation.Set(cublasLtMatmulDescSetAttribute, attribute, value);
  }
  // A stored row is a column of the library; `rows` x `columns` is what the product takes.
  static Layout LayoutOf(const MatrixOperand& operand, DType dtype, int64_t rows, int64_t columns,
                         const Where& where) {
    if (operand.transposed) std::swap(rows, columns);
    return Layout(where, "cublasLtMatrixLayoutCreate", cublasLtMatrixLayoutCreate, TypeOf(dtype),
                  static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), operand.stride);
  }
};

}  // namespace

struct Blas::Impl {
  Impl(size_t workspace_bytes, const Where& where) : workspace(workspace_bytes, where) {
    Check(cublasLtCreate(&handle), "cublasLtCreate", where);
  }
  ~Impl() { cublasLtDestroy(handle); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // The library's first choice for the product.
  cublasLtMatmulAlgo_t Choose(Described& described, const MatrixProduct& p,
                              const Where& where) const;

  DeviceMemory workspace;
  cublasLtHandle_t handle = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;
};

cublasLtMatmulAlgo_t Blas::Impl::Choose(Described& described, const MatrixProduct& p,
                                        const Where& where) const {
  Preference preference(where, "cublasLtMatmulPreferenceCreate", cublasLtMatmulPreferenceCreate);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    preference.Set(cublasLtMatmulPreferenceSetAttribute, attribute, value);
  };
  const auto [a, b, out, bias, aux] = AlignmentsOf(p);
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace.size()});
  // The other schemes round partial sums to the output's dtype.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out);
  const auto stand_in = [](uint32_t alignment) {
    return reinterpret_cast<void*>(size_t{alignment});
  };
  described.SetPointers(p.epilogue, stand_in(bias), stand_in(aux));

  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, described.operation, described.left, described.right,
                                     described.out, described.out, preference, 1, &result, &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0 || result.state != CUBLAS_STATUS_SUCCESS) {
    throw DeviceError("cuBLASLt has no algorithm for a product of " + std::to_string(p.m) + " x " +
                          std::to_string(p.n) + " x " + std::to_string(p.k) + " " +
                          std::string(DTypeName(p.dtype)) + " into " +
                          std::string(DTypeName(p.out_dtype)) + ": " +
                          cublasLtGetStatusString(status),
                      where);
  }
  return result.algo;
}

Blas::Blas(size_t workspace_bytes, const Where& where)
    : impl_(std::make_unique<Impl>(workspace_bytes, where)) {}
Blas::~Blas() = default;

size_t Blas::num_algorithms() const { return impl_->algorithms.size(); }

void Blas::Multiply(Stream& stream, const MatrixProduct& p, const Where& where) {
  if (p.m == 0 || p.n == 0) return;
  CheckProduct(p, where);
  Described described(p, where);
  const Key key = KeyOf(p);
  auto found = impl_->algorithms.find(key);
  if (found == impl_->algorithms.end()) {
    found = impl_->algorithms.emplace(key, impl_->Choose(described, p, where)).first;
  }
  described.SetPointers(p.epilogue, BiasPointer(p), p.aux);
  const float alpha = 1, beta = p.accumulate ? 1 : 0;
  Check(cublasLtMatmul(impl_->handle, described.operation, &alpha, p.b.data, described.left,
                       p.a.data, described.right, &beta, p.out, described.out, p.out, described.out,
                       &found->second, impl_->workspace.data<void>(), impl_->workspace.size(),
                       static_cast<cudaStream_t>(stream.handle())),
        "cublasLtMatmul", where);
}

std::string BlasName() {
  const size_t version = cublasLtGetVersion();
  if (version == 0) return "cuBLASLt's stand-in on the host";
  // 130100: 13.1.0.
  return "cuBLASLt " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) +
         "." + std::to_string(version % 100);
}

}  // namespace sepia::kernels::cuda
