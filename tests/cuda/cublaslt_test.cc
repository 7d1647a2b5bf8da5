// The stand-in of cuBLASLt refuses what the library's documentation refuses.
#include <cublasLt.h>

#include <cstddef>
#include <cstdint>

#include <gtest/gtest.h>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {
namespace {

// The library itself, spoken to as blas.cc does: D[6, 4] = A[6, 8] B[8, 4], column by column, bf16.
class CublasLtTest : public ::testing::Test {
 protected:
  CublasLtTest() {
    cublasLtCreate(&handle_);
    cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulPreferenceCreate(&preference_);
    SetPreference(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{1} << 16);
    SetLayouts({.a = CUDA_R_16BF, .b = CUDA_R_16BF, .d = CUDA_R_16BF});
  }
  ~CublasLtTest() override {
    DestroyLayouts();
    cublasLtMatmulPreferenceDestroy(preference_);
    cublasLtMatmulDescDestroy(operation_);
    cublasLtDestroy(handle_);
  }

  struct Types {
    cudaDataType_t a, b, d;
    int64_t lda = 6, ldb = 8, ldd = 6;
    uint64_t k_of_b = 8;
  };
  void SetLayouts(const Types& types) {
    DestroyLayouts();
    cublasLtMatrixLayoutCreate(&a_, types.a, 6, 8, types.lda);
    cublasLtMatrixLayoutCreate(&b_, types.b, types.k_of_b, 4, types.ldb);
    cublasLtMatrixLayoutCreate(&d_, types.d, 6, 4, types.ldd);
  }
  template <typename T>
  void Set(cublasLtMatmulDescAttributes_t attribute, T value) {
    ASSERT_EQ(cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof(value)),
              CUBLAS_STATUS_SUCCESS);
  }
  template <typename T>
  void SetPreference(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof(value)),
              CUBLAS_STATUS_SUCCESS);
  }
  cublasStatus_t Choose() {
    int count = 0;
    return cublasLtMatmulAlgoGetHeuristic(handle_, operation_, a_, b_, d_, d_, preference_, 1,
                                          &choice_, &count);
  }
  // With operands and workspace this many bytes past a 256-byte boundary.
  cublasStatus_t Multiply(size_t shift_a = 0, size_t shift_workspace = 0,
                          size_t workspace_bytes = 1024) {
    const float alpha = 1, beta = 0;
    char* memory = memory_.data<char>();
    return cublasLtMatmul(handle_, operation_, &alpha, memory + shift_a, a_, memory + 1024, b_,
                          &beta, memory + 2048, d_, memory + 2048, d_, &choice_.algo,
                          memory + 3072 + shift_workspace, workspace_bytes, nullptr);
  }

  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, d_ = nullptr;
  cublasLtMatmulHeuristicResult_t choice_ = {};
  DeviceMemory memory_{8192};

 private:
  void DestroyLayouts() {
    for (cublasLtMatrixLayout_t layout : {a_, b_, d_}) cublasLtMatrixLayoutDestroy(layout);
  }
};

TEST_F(CublasLtTest, TakesWhatBlasAsks) {
  EXPECT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Multiply(), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLtTest, RefusesDtypes) {
  for (const Types& types : {Types{.a = CUDA_R_16BF, .b = CUDA_R_16F, .d = CUDA_R_32F},
                             Types{.a = CUDA_R_16BF, .b = CUDA_R_16BF, .d = CUDA_R_16F},
                             Types{.a = CUDA_R_32F, .b = CUDA_R_32F, .d = CUDA_R_16BF}}) {
    SetLayouts(types);
    EXPECT_EQ(Choose(), CUBLAS_STATUS_NOT_SUPPORTED);
  }
}

TEST_F(CublasLtTest, RefusesSizesAndLeadingDimensions) {
  const Types good = {.a = CUDA_R_16BF, .b = CUDA_R_16BF, .d = CUDA_R_16BF};
  for (auto spoil : {+[](Types& t) { t.lda = 5; }, +[](Types& t) { t.ldb = 7; },
                     +[](Types& t) { t.ldd = 5; }, +[](Types& t) { t.k_of_b = 7; }}) {
    Types types = good;
    spoil(types);
    SetLayouts(types);
    EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE);
  }
}

TEST_F(CublasLtTest, RefusesEpilogues) {
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_BIAS});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE) << "no bias pointer";
  Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, memory_.data<void>());
  EXPECT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t{CUDA_R_32F});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_NOT_SUPPORTED) << "bias of another dtype than D";
  Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t{CUDA_R_16BF});

  Set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_GELU_AUX_BIAS});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE) << "no aux pointer";
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, memory_.data<void>());
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{6});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE) << "aux rows no multiple of 8 apart";
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{0});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE) << "aux rows closer than they are long";
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{8});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, int32_t{CUDA_R_32F});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_NOT_SUPPORTED) << "aux of another dtype than D";
}

TEST_F(CublasLtTest, RefusesEpiloguesOfRowMajorOutput) {
  const int32_t row_major = CUBLASLT_ORDER_ROW;
  cublasLtMatrixLayoutSetAttribute(d_, CUBLASLT_MATRIX_LAYOUT_ORDER, &row_major, sizeof(row_major));
  EXPECT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_BIAS});
  Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, memory_.data<void>());
  EXPECT_EQ(Choose(), CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(CublasLtTest, RefusesAlignmentBelowWhatWasPromised) {
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);  // the default promise is 256 bytes
  EXPECT_EQ(Multiply(16), CUBLAS_STATUS_INVALID_VALUE);
  SetPreference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t{16});
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Multiply(16), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Multiply(8), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtTest, RefusesWorkspaces) {
  EXPECT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Multiply(0, 16), CUBLAS_STATUS_INVALID_VALUE) << "not aligned to 256 bytes";
  choice_.algo.data[2] = 4096;  // the bytes that the stand-in's algorithm needs
  EXPECT_EQ(Multiply(0, 0, 4095), CUBLAS_STATUS_INVALID_VALUE) << "too small";
  EXPECT_EQ(Multiply(0, 0, 4096), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLtTest, RefusesAnAlgorithmOfAnotherProblem) {
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  SetLayouts({.a = CUDA_R_16BF, .b = CUDA_R_16BF, .d = CUDA_R_32F});
  EXPECT_EQ(Multiply(), CUBLAS_STATUS_NOT_SUPPORTED);
}

}  // namespace
}  // namespace sepia::kernels::cuda
