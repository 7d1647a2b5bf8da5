// The matrix product layer over the stand-in of cuBLASLt: every form against double sums, and what
// the layer refuses.
#include "kernels/cuda/blas.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/emulation/emulation.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/gelu.h"

namespace sepia::kernels::cuda {
namespace {

using kernels::testing::RandomTensor;
using kernels::testing::RoundingError;
using kernels::testing::Values;
using ::testing::HasSubstr;

struct Form {
  DType dtype = DType::kBFloat16;
  DType out_dtype = DType::kBFloat16;
  int64_t m = 5, n = 7, k = 11;
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;
  Epilogue epilogue = Epilogue::kNone;
  int64_t padding = 0;  // elements between rows of all matrices
  size_t workspace_bytes = size_t{1} << 20;
};

class Uploaded {
 public:
  Uploaded(Stream& stream, OwnedTensor host) : stream_(stream), host_(std::move(host)) {
    const auto bytes = static_cast<size_t>(host_.view().num_bytes());
    memory_ = DeviceMemory(bytes);
    CopyToDevice(stream, memory_.data<void>(), host_.view().raw(), bytes);
  }
  void* data() const { return memory_.data<void>(); }
  std::vector<double> before() const { return Values(host_); }
  std::vector<double> now() const {
    const OwnedTensor copy(host_.view().dtype(), host_.view().shape());
    CopyToHost(stream_, copy.view().raw(), data(), memory_.size());
    return Values(copy);
  }

 private:
  Stream& stream_;
  OwnedTensor host_;
  DeviceMemory memory_;
};

// A product on random values, and what it should be.
class Trial {
 public:
  explicit Trial(const Form& form)
      : form_(form),
        a_(Matrix(form.dtype, form.transpose_a ? form.k : form.m, RowA(), 1)),
        b_(Matrix(form.dtype, form.transpose_b ? form.n : form.k, RowB(), 2)),
        out_(Matrix(form.out_dtype, form.m, form.n + form.padding, 3)),
        bias_(Matrix(form.out_dtype, 1, form.n, 4)),
        aux_(Matrix(form.out_dtype, form.m, AuxStride(), 5)),
        bias_gradient_(Matrix(form.out_dtype, 1, form.m, 6)) {}

  MatrixProduct Product() const {
    return {.dtype = form_.dtype,
            .out_dtype = form_.out_dtype,
            .m = form_.m,
            .n = form_.n,
            .k = form_.k,
            .a = {a_.data(), RowA(), form_.transpose_a},
            .b = {b_.data(), RowB(), form_.transpose_b},
            .out = out_.data(),
            .out_stride = form_.n + form_.padding,
            .accumulate = form_.accumulate,
            .epilogue = form_.epilogue,
            .bias = bias_.data(),
            .aux = aux_.data(),
            .aux_stride = AuxStride(),
            .bias_gradient = bias_gradient_.data()};
  }

  void Run() {
    Blas blas(form_.workspace_bytes);
    RunWith(blas);
  }
  void RunWith(Blas& blas) { blas.Multiply(stream_, Product()); }

  // Sums of k products in fp32 in any order: k roundings of at most the sum of magnitudes. GeLU's
  // slope is at most 1.13; its own arithmetic is a handful of roundings of |x| + 1.
  void ExpectRight() const {
    const auto a = a_.before(), b = b_.before(), before = out_.before(), after = out_.now();
    const auto bias = bias_.before(), aux_before = aux_.before(), aux_after = aux_.now();
    const auto gradient = bias_gradient_.now();
    const Epilogue e = form_.epilogue;
    const bool has_bias =
        e == Epilogue::kBias || e == Epilogue::kGeluBias || e == Epilogue::kGeluBiasAux;
    const auto gelu = [](double x) { return sepia::testing::Gelu(GeluKind::kTanh, x); };
    const auto slope = [](double x) { return sepia::testing::GeluSlope(GeluKind::kTanh, x); };
    for (int64_t i = 0; i < form_.m; ++i) {
      double row_sum = 0, row_magnitude = 0;
      for (int64_t k = 0; k < form_.k; ++k) {
        row_sum += a[IndexA(i, k)];
        row_magnitude += std::fabs(a[IndexA(i, k)]);
      }
      for (int64_t j = 0; j < form_.n; ++j) {
        double value = 0, magnitude = 0;
        for (int64_t k = 0; k < form_.k; ++k) {
          const double term = a[IndexA(i, k)] * b[IndexB(k, j)];
          value += term;
          magnitude += std::fabs(term);
        }
        const auto at = static_cast<size_t>(i * (form_.n + form_.padding) + j);
        const auto at_aux = static_cast<size_t>(i * AuxStride() + j);
        if (form_.accumulate) {
          value += before[at];
          magnitude += std::fabs(before[at]);
        }
        if (has_bias) {
          value += bias[static_cast<size_t>(j)];
          magnitude += std::fabs(bias[static_cast<size_t>(j)]);
        }
        double bound = (static_cast<double>(form_.k) + 3) * 0x1p-24 * magnitude;
        if (e == Epilogue::kGeluBiasAux) {
          ExpectNear(aux_after[at_aux], value, bound + RoundingError(form_.out_dtype, value));
        }
        if (e == Epilogue::kGeluBias || e == Epilogue::kGeluBiasAux) {
          bound = 1.13 * bound + 32 * 0x1p-24 * (std::fabs(value) + 1);
          value = gelu(value);
        } else if (e == Epilogue::kGeluBackward) {
          bound = 1.13 * bound + 32 * 0x1p-24 * (std::fabs(value) + 1);
          value *= slope(aux_before[at_aux]);
        }
        ExpectNear(after[at], value, bound + 1.01 * RoundingError(form_.out_dtype, value));
      }
      if (e == Epilogue::kBiasGradient) {
        const double bound = (static_cast<double>(form_.k) + 3) * 0x1p-24 * row_magnitude;
        ExpectNear(gradient[static_cast<size_t>(i)], row_sum,
                   bound + 1.01 * RoundingError(form_.out_dtype, row_sum));
      }
    }
    ExpectPaddingUntouched(before, after);
  }

  std::vector<double> out() const { return out_.now(); }
  Stream& stream() { return stream_; }

 private:
  Uploaded Matrix(DType dtype, int64_t rows, int64_t row, uint64_t seed) {
    return Uploaded(stream_, RandomTensor(dtype, {rows, row}, seed));
  }
  int64_t RowA() const { return (form_.transpose_a ? form_.m : form_.k) + form_.padding; }
  int64_t RowB() const { return (form_.transpose_b ? form_.k : form_.n) + form_.padding; }
  int64_t AuxStride() const { return (form_.n + 7) / 8 * 8 + 8 * (form_.padding > 0); }
  size_t IndexA(int64_t i, int64_t k) const {
    return static_cast<size_t>(form_.transpose_a ? k * RowA() + i : i * RowA() + k);
  }
  size_t IndexB(int64_t k, int64_t j) const {
    return static_cast<size_t>(form_.transpose_b ? j * RowB() + k : k * RowB() + j);
  }
  static void ExpectNear(double actual, double expected, double bound) {
    EXPECT_LE(std::fabs(actual - expected), bound) << actual << " instead of " << expected;
  }
  void ExpectPaddingUntouched(const std::vector<double>& before,
                              const std::vector<double>& after) const {
    const auto stride = static_cast<size_t>(form_.n + form_.padding);
    for (size_t i = 0; i < after.size(); ++i) {
      if (i % stride < static_cast<size_t>(form_.n)) continue;
      EXPECT_EQ(after[i], before[i]);
    }
  }

  Form form_;
  Stream stream_;
  Uploaded a_, b_, out_, bias_, aux_, bias_gradient_;
};

constexpr Epilogue kEpilogues[] = {Epilogue::kNone,         Epilogue::kBias,
                                   Epilogue::kGeluBias,     Epilogue::kGeluBiasAux,
                                   Epilogue::kGeluBackward, Epilogue::kBiasGradient};

TEST(BlasTest, EveryForm) {
  for (const DType dtype : kernels::testing::kComputeDTypes) {
    for (const bool widen : {false, true}) {
      for (const Epilogue epilogue : kEpilogues) {
        for (int bits = 0; bits < 16; ++bits) {
          Trial trial({.dtype = dtype,
                       .out_dtype = widen ? DType::kFloat32 : dtype,
                       .transpose_a = (bits & 1) != 0,
                       .transpose_b = (bits & 2) != 0,
                       .accumulate = (bits & 4) != 0,
                       .epilogue = epilogue,
                       .padding = (bits & 8) != 0 ? 3 : 0});
          trial.Run();
          trial.ExpectRight();
        }
      }
    }
  }
}

// Forms that differ in nothing but dtypes, transposes, epilogue or accumulation have algorithms of
// their own: the library refuses one that was chosen for another form.
TEST(BlasTest, FormsOfOneShapeDoNotShareAlgorithms) {
  Blas blas;
  size_t forms = 0;
  for (const DType out_dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (const Epilogue epilogue : kEpilogues) {
      for (int bits = 0; bits < 8; ++bits) {
        Trial trial({.out_dtype = out_dtype,
                     .m = 8,
                     .n = 8,
                     .k = 8,
                     .transpose_a = (bits & 1) != 0,
                     .transpose_b = (bits & 2) != 0,
                     .accumulate = (bits & 4) != 0,
                     .epilogue = epilogue});
        trial.RunWith(blas);
        trial.ExpectRight();
        EXPECT_EQ(blas.num_algorithms(), ++forms);
      }
    }
  }
}

TEST(BlasTest, SizesOfAModel) {
  for (const auto& [m, n, k] : {std::tuple{64, 48, 192}, std::tuple{1, 1, 1}, std::tuple{3, 200, 1},
                                std::tuple{16, 16, 1000}}) {
    Trial trial({.m = m, .n = n, .k = k, .transpose_b = true, .epilogue = Epilogue::kBias});
    trial.Run();
    trial.ExpectRight();
  }
}

// The workspace decides about splitting the sum; either way the result is right and stays the same.
TEST(BlasTest, SameBitsAgainAndWithoutWorkspaceAsWell) {
  const Form form = {.out_dtype = DType::kFloat32, .m = 8, .n = 8, .k = 512};
  Trial first(form), second(form);
  first.Run();
  second.Run();
  first.ExpectRight();
  EXPECT_EQ(first.out(), second.out());
  Form unsplit = form;
  unsplit.workspace_bytes = 0;
  Trial other(unsplit);
  other.Run();
  other.ExpectRight();
  EXPECT_NE(first.out(), other.out()) << "both summed in the same order: nothing was split";
}

TEST(BlasTest, ChoosesOnceForEachShape) {
  Trial small({.m = 4}), large({.m = 6});
  Blas blas;
  for (int i = 0; i < 3; ++i) {
    blas.Multiply(small.stream(), small.Product());
    blas.Multiply(large.stream(), large.Product());
  }
  EXPECT_EQ(blas.num_algorithms(), 2u);
  MatrixProduct accumulated = small.Product();
  accumulated.accumulate = true;
  blas.Multiply(small.stream(), accumulated);
  EXPECT_EQ(blas.num_algorithms(), 3u);
}

// An operand that is less aligned gets an algorithm of its own.
TEST(BlasTest, UnalignedOperands) {
  Trial trial({.m = 4, .n = 8, .k = 8});
  Blas blas;
  MatrixProduct product = trial.Product();
  blas.Multiply(trial.stream(), product);
  product.m = 3;
  blas.Multiply(trial.stream(), product);
  product.a.data = static_cast<const uint16_t*>(product.a.data) + 1;
  product.a.stride = 7;
  product.k = 7;
  blas.Multiply(trial.stream(), product);
  EXPECT_EQ(blas.num_algorithms(), 3u);
}

TEST(BlasTest, NothingToDo) {
  Blas blas;
  Stream stream;
  blas.Multiply(stream, {.dtype = DType::kBFloat16, .out_dtype = DType::kBFloat16, .n = 4, .k = 4});
  EXPECT_EQ(blas.num_algorithms(), 0u);
}

TEST(BlasTest, Refuses) {
  struct Refusal {
    const char* message;
    std::function<void(MatrixProduct&)> spoil;
  };
  const Refusal refusals[] = {
      {"k = 0", [](MatrixProduct& p) { p.k = 0; }},
      {"beyond 2^31", [](MatrixProduct& p) { p.m = int64_t{1} << 31; }},
      {"no product of bf16 into f16", [](MatrixProduct& p) { p.out_dtype = DType::kFloat16; }},
      {"no product of f64", [](MatrixProduct& p) { p.dtype = p.out_dtype = DType::kFloat64; }},
      {"a is missing", [](MatrixProduct& p) { p.a.data = nullptr; }},
      {"rows of a are 11", [](MatrixProduct& p) { p.a.stride = 10; }},
      {"rows of b are 7", [](MatrixProduct& p) { p.b.stride = 6; }},
      {"rows of out are 7", [](MatrixProduct& p) { p.out_stride = 6; }},
      {"out is missing", [](MatrixProduct& p) { p.out = nullptr; }},
      {"bias is missing", [](MatrixProduct& p) { p.epilogue = Epilogue::kBias, p.bias = nullptr; }},
      {"bias is missing",
       [](MatrixProduct& p) { p.epilogue = Epilogue::kBiasGradient, p.bias_gradient = nullptr; }},
      {"aux is missing",
       [](MatrixProduct& p) { p.epilogue = Epilogue::kGeluBackward, p.aux = nullptr; }},
      {"rows of aux are 7",
       [](MatrixProduct& p) { p.epilogue = Epilogue::kGeluBiasAux, p.aux_stride = 6; }},
      {"no multiple of 8",
       [](MatrixProduct& p) { p.epilogue = Epilogue::kGeluBiasAux, p.aux_stride = 9; }},
      {"not aligned to its elements",
       [](MatrixProduct& p) { p.b.data = static_cast<const char*>(p.b.data) + 1; }},
  };
  Trial trial({});
  Blas blas;
  for (const Refusal& refusal : refusals) {
    MatrixProduct product = trial.Product();
    refusal.spoil(product);
    try {
      blas.Multiply(trial.stream(), product);
      ADD_FAILURE() << "not refused: " << refusal.message;
    } catch (const DeviceError& error) {
      EXPECT_THAT(error.what(), HasSubstr(refusal.message));
    }
  }
  EXPECT_EQ(blas.num_algorithms(), 0u);
}

TEST(BlasTest, MemoryThatIsNotOnTheDeviceIsAFault) {
  Trial trial({});
  Blas blas;
  MatrixProduct product = trial.Product();
  std::vector<uint16_t> host(77);
  product.b.data = host.data();
  EXPECT_THROW(blas.Multiply(trial.stream(), product), emulation::Fault);
  product = trial.Product();
  product.m += 1;  // one row more than there is
  EXPECT_THROW(blas.Multiply(trial.stream(), product), emulation::Fault);
}

}  // namespace
}  // namespace sepia::kernels::cuda
