// The row-wise ops on the emulated device against the double formulas of tests/oracle.
#include "kernels/cuda/dense_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/optimizer_state.h"
#include "tests/kernels/op_test.h"
#include "tests/oracle/adamw.h"
#include "tests/oracle/gelu.h"
#include "tests/oracle/layer_norm.h"

namespace sepia::kernels::cuda {
namespace {

using kernels::testing::ExpectWithin;
using kernels::testing::RandomTensor;
using kernels::testing::RoundingError;
using kernels::testing::SameBits;
using kernels::testing::Scalar;
using kernels::testing::Values;
using Vector = std::vector<double>;

constexpr double kU32 = 0x1p-24;
// Around a chunk (8 elements), a warp's stride (256) and a block's columns (1024).
constexpr int64_t kWidths[] = {1, 3, 7, 8, 9, 64, 255, 256, 257, 1032};

// A tensor and its copy on the device.
class OnDevice {
 public:
  OnDevice(Stream& stream, OwnedTensor host)
      : stream_(stream), host_(std::move(host)), memory_(Bytes()) {
    CopyToDevice(stream, memory_.data<void>(), host_.view().raw(), Bytes());
  }
  operator void*() const { return memory_.data<void>(); }  // NOLINT: stands for the memory
  template <typename T>
  T* data() const {
    return memory_.data<T>();
  }
  // As it was uploaded, and as it is.
  Vector Before() const { return Values(host_); }
  OwnedTensor Download() const {
    OwnedTensor copy(host_.view().dtype(), host_.view().shape());
    CopyToHost(stream_, copy.view().raw(), memory_.data<void>(), Bytes());
    return copy;
  }

 private:
  size_t Bytes() const { return static_cast<size_t>(host_.view().num_bytes()); }

  Stream& stream_;
  OwnedTensor host_;
  DeviceMemory memory_;
};

Vector Row(const Vector& matrix, size_t row, size_t columns) {
  const auto begin = matrix.begin() + static_cast<ptrdiff_t>(row * columns);
  return Vector(begin, begin + static_cast<ptrdiff_t>(columns));
}

class CudaDenseOpsTest : public ::testing::TestWithParam<DType> {
 protected:
  CudaDenseOpsTest() { emulation::MutableOptions().seed = 3; }
  ~CudaDenseOpsTest() override { emulation::MutableOptions() = {}; }

  OnDevice Random(const Shape& shape, uint64_t seed, double scale = 1.0) {
    return OnDevice(stream_, RandomTensor(GetParam(), shape, seed, scale));
  }
  OnDevice RandomFloats(const Shape& shape, uint64_t seed) {
    return OnDevice(stream_, RandomTensor(DType::kFloat32, shape, seed));
  }

  Stream stream_;
};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaDenseOpsTest,
                         ::testing::ValuesIn(kernels::testing::kComputeDTypes),
                         kernels::testing::DTypeParamName);

// A lane adds every 32nd chunk, then the lanes: this many additions in a row at most.
double SumError(size_t columns) { return (static_cast<double>(columns) / 32 + 8 + 5 + 3) * kU32; }

double Largest(const Vector& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

TEST_P(CudaDenseOpsTest, LayerNormMatchesDouble) {
  constexpr int64_t kRows = 70;  // more than the rows of one partial sum
  for (const int64_t width : kWidths) {
    for (const bool add : {false, true}) {
      const auto columns = static_cast<size_t>(width);
      OnDevice x = Random({kRows, width}, 1), gamma = Random({width}, 2), beta = Random({width}, 3),
               y = Random({kRows, width}, 4), dy = Random({kRows, width}, 5),
               dx = Random({kRows, width}, 6);
      OnDevice mean = RandomFloats({kRows}, 7), rstd = RandomFloats({kRows}, 8),
               dgamma = RandomFloats({width}, 9), dbeta = RandomFloats({width}, 10);
      const DeviceMemory scratch(ColumnSumScratchBytes(kRows, width));
      const double eps = 1e-5;
      const LayerNormParams params = {.dtype = GetParam(),
                                      .rows = kRows,
                                      .columns = width,
                                      .x = x,
                                      .gamma = gamma,
                                      .beta = beta,
                                      .y = y,
                                      .mean = mean.data<float>(),
                                      .rstd = rstd.data<float>(),
                                      .eps = static_cast<float>(eps),
                                      .dy = dy,
                                      .dx = dx,
                                      .dgamma = dgamma.data<float>(),
                                      .dbeta = dbeta.data<float>(),
                                      .add_dx = add,
                                      .add_grads = add,
                                      .scratch = scratch.data<float>()};
      LayerNormForward(stream_, params);
      LayerNormBackward(stream_, params);

      const OwnedTensor actual_y = y.Download(), actual_dx = dx.Download();
      const Vector gammas = gamma.Before(), betas = beta.Before(), dx_before = dx.Before();
      Vector sum_gamma = add ? dgamma.Before() : Vector(columns);
      Vector sum_beta = add ? dbeta.Before() : Vector(columns);
      Vector gamma_error(columns, 1e-6), beta_error(columns, 1e-6);
      for (size_t r = 0; r < kRows; ++r) {
        const Vector xs = Row(x.Before(), r, columns), dys = Row(dy.Before(), r, columns);
        const auto row = ::sepia::testing::LayerNorm(xs, gammas, betas, eps);
        // The mean is off by SumError max|x|, rstd by SumError relative, three roundings.
        const auto xhat_error = [&](size_t i) {
          return SumError(columns) * (Largest(xs) * row.rstd + 3 * std::abs(row.xhat[i]));
        };
        ExpectWithin(
            actual_y.view().Rows(static_cast<int64_t>(r), 1), row.y,
            [&](size_t i) {
              const double error =
                  xhat_error(i) * std::abs(gammas[i]) +
                  2 * kU32 * (std::abs(row.xhat[i] * gammas[i]) + std::abs(row.y[i]));
              return error + RoundingError(GetParam(), std::abs(row.y[i]) + error);
            },
            "y");
        Vector gradient = ::sepia::testing::LayerNormGradient(row, gammas, dys);
        double magnitude = 0;  // of the terms of the two means
        double xhat_size = 0;
        for (size_t i = 0; i < columns; ++i) {
          magnitude += std::abs(dys[i] * gammas[i]) / static_cast<double>(columns);
          xhat_size = std::max(xhat_size, std::abs(row.xhat[i]) + xhat_error(i));
        }
        Vector bound(columns);
        for (size_t i = 0; i < columns; ++i) {
          const double scale =
              std::abs(dys[i] * gammas[i]) + magnitude * (1 + xhat_size * xhat_size);
          const double before = add ? dx_before[r * columns + i] : 0;
          gradient[i] += before;
          bound[i] = row.rstd * (scale * 4 * SumError(columns) +
                                 magnitude * 2 * xhat_size * xhat_error(i)) +
                     2 * kU32 * (std::abs(before) + std::abs(gradient[i]));
          bound[i] += RoundingError(GetParam(), std::abs(gradient[i]) + bound[i]);
          sum_gamma[i] += dys[i] * row.xhat[i];
          sum_beta[i] += dys[i];
          gamma_error[i] += std::abs(dys[i]) * (xhat_error(i) + 72 * kU32 * std::abs(row.xhat[i]));
          beta_error[i] += std::abs(dys[i]) * 72 * kU32;
        }
        ExpectWithin(
            actual_dx.view().Rows(static_cast<int64_t>(r), 1), gradient,
            [&](size_t i) { return bound[i]; }, "dx");
      }
      ExpectWithin(
          dgamma.Download(), sum_gamma, [&](size_t i) { return gamma_error[i]; }, "dgamma");
      ExpectWithin(
          dbeta.Download(), sum_beta, [&](size_t i) { return beta_error[i]; }, "dbeta");
    }
  }
}

// x + bias rounds once; value and slope are then off by a few roundings of |v| and 1 + |v|, as in
// tests/kernels/gelu_test.cc, with libm's 2 ulp functions (twice that on a device).
TEST_P(CudaDenseOpsTest, BiasGeluMatchesDouble) {
  constexpr int64_t kRows = 67;
  for (const GeluKind kind : {GeluKind::kTanh, GeluKind::kErf}) {
    for (const int64_t width : kWidths) {
      const auto columns = static_cast<size_t>(width);
      OnDevice x = Random({kRows, width}, 1, 2.0), bias = Random({width}, 2),
               y = Random({kRows, width}, 3), dy = Random({kRows, width}, 4),
               dx = Random({kRows, width}, 5);
      OnDevice dbias = RandomFloats({width}, 6);
      const DeviceMemory scratch(ColumnSumScratchBytes(kRows, width));
      const BiasGeluParams params = {.dtype = GetParam(),
                                     .rows = kRows,
                                     .columns = width,
                                     .use_erf = kind == GeluKind::kErf,
                                     .x = x,
                                     .bias = bias,
                                     .y = y,
                                     .dy = dy,
                                     .dx = dx,
                                     .dbias = dbias.data<float>(),
                                     .add_grads = true,
                                     .scratch = scratch.data<float>()};
      BiasGeluForward(stream_, params);
      BiasGeluBackward(stream_, params);
      const Vector xs = x.Before(), biases = bias.Before(), dys = dy.Before();
      Vector value(xs.size()), slope(xs.size()), sums = dbias.Before(), sum_error(columns, 1e-6);
      for (size_t i = 0; i < xs.size(); ++i) {
        const double v = xs[i] + biases[i % columns];
        value[i] = ::sepia::testing::Gelu(kind, v);
        slope[i] = dys[i] * ::sepia::testing::GeluSlope(kind, v);
        sums[i % columns] += slope[i];
        sum_error[i % columns] += std::abs(dys[i]) * (1 + std::abs(v)) * (72 + 16) * kU32;
      }
      const auto v_at = [&](size_t i) { return std::abs(xs[i] + biases[i % columns]); };
      ExpectWithin(
          y.Download(), value,
          [&](size_t i) {
            const double error = 16 * kU32 * v_at(i);
            return error + RoundingError(GetParam(), std::abs(value[i]) + error);
          },
          "y");
      ExpectWithin(
          dx.Download(), slope,
          [&](size_t i) {
            const double error = 16 * kU32 * (1 + v_at(i)) * std::abs(dys[i]);
            return error + RoundingError(GetParam(), std::abs(slope[i]) + error);
          },
          "dx");
      ExpectWithin(
          dbias.Download(), sums, [&](size_t i) { return sum_error[i]; }, "dbias");
    }
  }
}

TEST_P(CudaDenseOpsTest, AddBiasResidualMatchesDouble) {
  for (const int64_t width : kWidths) {
    for (const bool two : {false, true}) {
      OnDevice x = Random({5, width}, 1), partial = Random({5, width}, 2),
               bias1 = Random({width}, 3), bias2 = Random({width}, 4), y = Random({5, width}, 5);
      AddBiasResidualForward(stream_, {.dtype = GetParam(),
                                       .rows = 5,
                                       .columns = width,
                                       .x = x,
                                       .partial = partial,
                                       .bias1 = bias1,
                                       .bias2 = two ? static_cast<void*>(bias2) : nullptr,
                                       .y = y});
      Vector sum = x.Before(), size(sum.size());
      const Vector p = partial.Before(), b1 = bias1.Before(), b2 = bias2.Before();
      for (size_t i = 0; i < sum.size(); ++i) {
        const size_t column = i % static_cast<size_t>(width);
        const double second = two ? b2[column] : 0;
        size[i] = std::abs(sum[i]) + std::abs(p[i]) + std::abs(b1[column]) + std::abs(second);
        sum[i] += p[i] + b1[column] + second;
      }
      ExpectWithin(
          y.Download(), sum,
          [&](size_t i) {
            return 3 * kU32 * size[i] +
                   RoundingError(GetParam(), std::abs(sum[i]) + size[i] * kU32);
          },
          "y");
    }
  }
}

TEST_P(CudaDenseOpsTest, AdamWMatchesDoubleAndSkips) {
  const ::sepia::testing::AdamWHyper hyper = {1e-3, 0.9, 0.95, 1e-8, 0.1};
  for (const int64_t size : {1, 8, 1021}) {
    for (const int32_t skip : {0, 1}) {
      const OwnedTensor masters = RandomTensor(DType::kFloat32, {size}, 1);
      OwnedTensor squares = RandomTensor(DType::kFloat32, {size}, 3);
      for (float& square : squares.view().span<float>()) square *= square;
      const auto master_dtype = MasterDType(GetParam());
      OwnedTensor host_weight(GetParam(), {size}), host_v(DType::kFloat32, {size}),
          host_master(master_dtype.value_or(DType::kFloat32), {size});
      const OptimizerState host = {.weight = host_weight,
                                   .master = master_dtype ? host_master.view() : TensorView(),
                                   .exp_avg = {},
                                   .exp_avg_sq = host_v};
      WriteValues(host, StateRole::kMaster, masters);
      WriteValues(host, StateRole::kExpAvgSq, squares);
      OnDevice m = RandomFloats({size}, 2), g = RandomFloats({size}, 4);
      OnDevice weight(stream_, std::move(host_weight)), master(stream_, std::move(host_master)),
          v(stream_, std::move(host_v));
      OnDevice multiplier(stream_, Scalar(0.5f)), skip_flag(stream_, Scalar(skip));
      const int64_t t = 7;
      AdamWUpdate(stream_, {.weight_dtype = GetParam(),
                            .size = size,
                            .weight = weight,
                            .master = master,
                            .exp_avg = m.data<float>(),
                            .exp_avg_sq = v.data<float>(),
                            .grad = g.data<float>(),
                            .grad_multiplier = multiplier.data<float>(),
                            .skip = skip_flag.data<int32_t>(),
                            .lr = static_cast<float>(hyper.lr),
                            .beta1 = static_cast<float>(hyper.beta1),
                            .beta2 = static_cast<float>(hyper.beta2),
                            .eps = static_cast<float>(hyper.eps),
                            .weight_decay = static_cast<float>(hyper.weight_decay),
                            .one_minus_beta1 = static_cast<float>(1 - hyper.beta1),
                            .one_minus_beta2 = static_cast<float>(1 - hyper.beta2),
                            .correction1 = static_cast<float>(1 - std::pow(hyper.beta1, t)),
                            .correction2 = static_cast<float>(1 - std::pow(hyper.beta2, t))});
      const OwnedTensor new_weight = weight.Download(), held = master.Download(),
                        new_v = v.Download(), values(DType::kFloat32, {size});
      const OptimizerState result = {.weight = new_weight,
                                     .master = master_dtype ? held.view() : TensorView(),
                                     .exp_avg = {},
                                     .exp_avg_sq = new_v};
      ReadValues(result, StateRole::kMaster, values);
      if (skip == 1) {
        EXPECT_TRUE(SameBits(values, masters));
        EXPECT_EQ(Values(new_weight), weight.Before());
        EXPECT_EQ(Values(new_v), v.Before());
        continue;
      }
      const Vector ps = Values(masters), ms = m.Before(), vs = Values(squares), gs = g.Before();
      Vector expected(ps.size()), bound(ps.size());
      for (size_t i = 0; i < ps.size(); ++i) {
        const auto s = ::sepia::testing::AdamWStep({ps[i], ms[i], vs[i]}, gs[i] * 0.5, hyper, t);
        expected[i] = s.p;
        // 1 - beta in fp32 is off by up to 2^-24 / (1 - beta2) = 20 units; then a dozen roundings
        // of moments and quotient, all of the size of the update.
        const double update = std::abs(ms[i]) + std::abs(gs[i]);
        const double v_hat = s.v / (1 - std::pow(hyper.beta2, t));
        bound[i] = 2 * kU32 * std::abs(ps[i]) +
                   hyper.lr * 64 * kU32 *
                       (4 * update / (std::sqrt(v_hat) + hyper.eps) + hyper.weight_decay);
      }
      ExpectWithin(
          values, expected, [&](size_t i) { return bound[i]; }, "master");
      // The weight is the master, rounded.
      OwnedTensor rounded(GetParam(), {size});
      for (int64_t i = 0; i < size; ++i) kernels::testing::Set(rounded, i, values.data<float>()[i]);
      EXPECT_TRUE(SameBits(new_weight, rounded));
    }
  }
}

TEST(CudaNormTest, SquaredNormIsExactEnoughAndTheSameForEveryOrder) {
  Stream stream;
  for (const int64_t size : {1, 8, 4095, 4096, 4097, 20000}) {
    const OnDevice x(stream, RandomTensor(DType::kFloat32, {size}, 1));
    double expected = 1.5;
    for (const double value : x.Before()) expected += value * value;
    std::vector<double> results;
    for (const uint64_t seed : {0, 1, 2}) {
      emulation::MutableOptions().seed = seed;
      OnDevice sum(stream, Scalar(1.5));
      const DeviceMemory scratch(SquaredNormScratchBytes(size));
      SquaredNorm(stream, {.size = size,
                           .x = x.data<float>(),
                           .sum = sum.data<double>(),
                           .add = true,
                           .scratch = scratch.data<double>()});
      results.push_back(Values(sum.Download())[0]);
    }
    emulation::MutableOptions() = {};
    // Two sums in double, of at most `size` additions each.
    EXPECT_NEAR(results[0], expected, 2 * static_cast<double>(size) * 0x1p-53 * expected);
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
  }
}

TEST(CudaNormTest, ClipFactor) {
  Stream stream;
  struct Case {
    double squared, clip, multiplier;
    int32_t skip;
  };
  // Loss scale 4: norm = sqrt(squared) / 4.
  const double inf = std::numeric_limits<double>::infinity();
  for (const auto& c : {Case{16, 0, 0.25, 0}, Case{16, 2, 0.25, 0},
                        Case{1600, 2, 0.25 / ((10 + 1e-6) / 2), 0}, Case{inf, 2, 0, 1}}) {
    const OnDevice squared(stream, Scalar(c.squared)), scale(stream, Scalar(4.0f));
    OnDevice norm(stream, Scalar(0.0)), multiplier(stream, Scalar(0.0f)), skip(stream, Scalar(7));
    ClipFactor(stream, {.squared_norm = squared.data<double>(),
                        .loss_scale = scale.data<float>(),
                        .clip = c.clip,
                        .norm = norm.data<double>(),
                        .grad_multiplier = multiplier.data<float>(),
                        .skip = skip.data<int32_t>()});
    EXPECT_EQ(Values(norm.Download())[0], std::sqrt(c.squared) / 4);
    EXPECT_EQ(skip.Download().data<int32_t>()[0], c.skip);
    if (c.skip == 0) {
      EXPECT_NEAR(Values(multiplier.Download())[0], c.multiplier, c.multiplier * kU32);
    }
  }
}

}  // namespace
}  // namespace sepia::kernels::cuda
