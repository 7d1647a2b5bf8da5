#include "tests/kernels/op_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/philox.h"

namespace sepia::kernels::testing {
namespace {

struct Format {
  int precision;     // bits of the significand, the hidden one included
  int min_exponent;  // of the smallest normal number
};

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return {24, -126};
    case DType::kBFloat16: return {8, -126};
    case DType::kFloat16: return {11, -14};
    default: return {53, -1022};
  }
}

double Get(const ConstTensorView& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::kFloat32: return static_cast<double>(tensor.data<float>()[i]);
    case DType::kBFloat16:
      return static_cast<double>(static_cast<float>(tensor.data<BFloat16>()[i]));
    case DType::kFloat16: return static_cast<double>(static_cast<float>(tensor.data<Float16>()[i]));
    default: return tensor.data<double>()[i];
  }
}

}  // namespace

double UnitRoundoff(DType dtype) { return std::ldexp(1.0, -FormatOf(dtype).precision); }

double RoundingError(DType dtype, double value) {
  const Format format = FormatOf(dtype);
  const double subnormal = std::ldexp(1.0, format.min_exponent - format.precision);
  return std::max(UnitRoundoff(dtype) * std::abs(value), subnormal);
}

std::vector<int32_t> SeparatorTokens(int64_t batch_size, int64_t seq_length,
                                     const std::vector<double>& density) {
  const PhiloxStream random(5, "tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(batch_size * seq_length));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const size_t row = std::min(i / static_cast<size_t>(seq_length), density.size() - 1);
    tokens[i] = random.Uniform(i) < density[row] ? kSeparator : 100;
  }
  return tokens;
}

void Set(const TensorView& tensor, int64_t i, float value) {
  switch (tensor.dtype()) {
    case DType::kFloat32: tensor.data<float>()[i] = value; break;
    case DType::kBFloat16: tensor.data<BFloat16>()[i] = BFloat16(value); break;
    case DType::kFloat16: tensor.data<Float16>()[i] = Float16(value); break;
    default: tensor.data<double>()[i] = static_cast<double>(value);
  }
}

OwnedTensor RandomTensor(DType dtype, const Shape& shape, uint64_t seed, double scale) {
  OwnedTensor tensor(dtype, shape);
  const PhiloxStream stream(seed, "op_test");
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    Set(tensor, i, static_cast<float>(scale) * stream.Normal(static_cast<uint64_t>(i)));
  }
  return tensor;
}

OwnedTensor RandomTokens(const Shape& shape, int32_t bound, uint64_t seed) {
  OwnedTensor tensor(DType::kInt32, shape);
  const PhiloxStream stream(seed, "op_test tokens");
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    const uint32_t bits = stream.Bits(static_cast<uint64_t>(i));
    tensor.data<int32_t>()[i] = static_cast<int32_t>(bits % static_cast<uint32_t>(bound));
  }
  return tensor;
}

std::vector<double> Values(const ConstTensorView& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = Get(tensor, static_cast<int64_t>(i));
  return values;
}

OwnedTensor Copy(const ConstTensorView& tensor) {
  OwnedTensor copy(tensor.dtype(), tensor.shape());
  // An empty tensor has no memory, and memcpy wants some.
  if (tensor.num_bytes() == 0) return copy;
  std::memcpy(copy.view().raw(), tensor.raw(), static_cast<size_t>(tensor.num_bytes()));
  return copy;
}

bool SameBits(const ConstTensorView& a, const ConstTensorView& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  return a.num_bytes() == 0 ||
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.num_bytes())) == 0;
}

void ExpectWithin(const ConstTensorView& actual, const std::vector<double>& expected,
                  const std::function<double(size_t)>& bound, const std::string& what) {
  const std::vector<double> values = Values(actual);
  ASSERT_EQ(values.size(), expected.size()) << what;
  size_t worst = 0;
  double worst_share = -1.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double share = std::abs(values[i] - expected[i]) / bound(i);
    // A NaN is the worst of all.
    if (!(share <= worst_share)) {
      worst = i;
      worst_share = share;
      if (std::isnan(share)) break;
    }
  }
  if (values.empty()) return;
  EXPECT_LE(worst_share, 1.0) << what << "[" << worst << "] = " << values[worst] << ", expected "
                              << expected[worst] << " +- " << bound(worst);
}

std::string DTypeParamName(const ::testing::TestParamInfo<DType>& info) {
  return std::string(DTypeName(info.param));
}

}  // namespace sepia::kernels::testing
