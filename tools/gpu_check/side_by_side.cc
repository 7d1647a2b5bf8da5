#include "tools/gpu_check/side_by_side.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include <fmt/format.h>

#include "base/device_memory.h"
#include "kernels/device.h"
#include "tools/sepia/random_tensor.h"

namespace sepia::tools::gpu_check {
namespace {

double Roundoff(DType dtype) {
  return dtype == DType::kBFloat16 ? 0x1p-8 : dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-24;
}

std::vector<double> Doubles(const ConstTensorView& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    switch (tensor.dtype()) {
      case DType::kFloat32: values[i] = tensor.data<float>()[i]; break;
      case DType::kFloat64: values[i] = tensor.data<double>()[i]; break;
      case DType::kInt32: values[i] = tensor.data<int32_t>()[i]; break;
      case DType::kBFloat16: values[i] = static_cast<float>(tensor.data<BFloat16>()[i]); break;
      default: values[i] = static_cast<float>(tensor.data<Float16>()[i]);
    }
  }
  return values;
}

void CompareOutput(const Side::Output& expected_output, const Side::Output& actual_output,
                   DType dtype, Finding& finding) {
  const auto expected = Doubles(OnHost(expected_output.tensor)),
             actual = Doubles(OnHost(actual_output.tensor));
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  const double fixed = largest * (4 * expected_output.depth * 0x1p-24 +
                                  (expected_output.roundings - 1) * Roundoff(dtype)) +
                       1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double bound =
        fixed + 2.02 * Roundoff(expected_output.tensor.dtype()) * std::fabs(expected[i]);
    const double ratio = std::fabs(actual[i] - expected[i]) / bound;
    if (ratio <= finding.worst) continue;  // false for NaN
    finding.worst = std::isfinite(ratio) ? ratio : 1e300;
    finding.detail = fmt::format("{}[{}] is {:g} on the device, {:g} on the cpu",
                                 expected_output.name, i, actual[i], expected[i]);
  }
}

}  // namespace

Side::Side(Device device) {
  ctx_.device = device;
  ctx_.num_threads = kernels::DefaultNumThreads();
}

void Side::Reserve(int64_t scratch_bytes) {
  scratch_ = std::make_unique<Arena>("scratch", scratch_bytes, ctx_.device);
  ctx_.scratch = scratch_.get();
}

TensorView Side::Keep(OwnedTensor host) {
  if (ctx_.device == Device::kCpu) {
    tensors_.push_back(std::move(host));
  } else {
    OwnedTensor there(host.view().dtype(), host.view().shape(), ctx_.device);
    CopyTensor(host, there);
    tensors_.push_back(std::move(there));
  }
  return tensors_.back();
}

TensorView Side::Random(DType dtype, const Shape& shape) {
  return Keep(RandomTensor(fmt::format("gpu_check {}", ++seed_), dtype, shape));
}

TensorView Side::Integers(const Shape& shape, int32_t bound) {
  OwnedTensor host(DType::kInt32, shape);
  std::mt19937 generator(static_cast<uint32_t>(++seed_));
  for (int32_t& value : host.view().span<int32_t>()) {
    value = static_cast<int32_t>(generator() % static_cast<uint32_t>(bound));
  }
  return Keep(std::move(host));
}

TensorView Side::Zeros(DType dtype, const Shape& shape) { return Keep(OwnedTensor(dtype, shape)); }

Finding CompareOnDevice(const std::string& name, DType dtype,
                        const std::function<void(Side&)>& run) {
  Finding finding = {
      .group = "correctness", .name = fmt::format("{} {}", name, DTypeName(dtype)), .detail = ""};
  try {
    Side cpu(Device::kCpu), device(Device::kCuda);
    run(cpu);
    run(device);
    kernels::Synchronize(Device::kCuda);
    for (size_t i = 0; i < cpu.outputs().size(); ++i) {
      CompareOutput(cpu.outputs()[i], device.outputs()[i], dtype, finding);
    }
    finding.ok = finding.worst <= 1;
    if (finding.ok) finding.detail = fmt::format("{:.0f} % of the bound", 100 * finding.worst);
  } catch (const std::exception& error) {
    finding.detail = error.what();
  }
  return finding;
}

Finding SameBitsOnDevice(const std::string& name, const std::function<void(Side&)>& run) {
  Finding finding = {.group = "determinism", .name = name, .detail = ""};
  try {
    Side first(Device::kCuda), second(Device::kCuda);
    run(first);
    run(second);
    finding.ok = true;
    for (size_t i = 0; i < first.outputs().size(); ++i) {
      const OwnedTensor a = OnHost(first.outputs()[i].tensor),
                        b = OnHost(second.outputs()[i].tensor);
      if (std::memcmp(a.view().raw(), b.view().raw(), static_cast<size_t>(a.view().num_bytes())) !=
          0) {
        finding.ok = false;
        finding.detail = first.outputs()[i].name + " differs from run to run";
      }
    }
  } catch (const std::exception& error) {
    finding.ok = false;
    finding.detail = error.what();
  }
  return finding;
}

}  // namespace sepia::tools::gpu_check
