#include "kernels/optimizer_state.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/device_memory.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/split_master.h"

namespace sepia::kernels {
namespace {

// `change(memory)` of a tensor of any device, in host memory.
template <typename Change>
void ChangeOnHost(const TensorView& tensor, const Change& change) {
  if (tensor.device() == Device::kCpu) return change(tensor);
  const OwnedTensor copy = OnHost(tensor);
  change(copy.view());
  CopyTensor(copy, tensor);
}

void CheckValues(const OptimizerState& state, const ConstTensorView& values) {
  CHECK(values.dtype() == DType::kFloat32 && values.device() == Device::kCpu &&
            values.num_elements() == state.weight.num_elements(),
        "values of {} {} for {} elements", DTypeName(values.dtype()), values.shape(),
        state.weight.num_elements());
}

void ReadSplitMasters(const OptimizerState& state, float* masters) {
  const HostView weight(state.weight), remainder(state.master), exp_avg_sq(state.exp_avg_sq);
  cpu::JoinMasters(weight->data<BFloat16>(), remainder->data<int16_t>(), exp_avg_sq->data<float>(),
                   weight->num_elements(), masters);
}

void WriteSplitMasters(const OptimizerState& state, const float* masters) {
  const int64_t count = state.weight.num_elements();
  WriteFromHost(state.master, [&](const TensorView& remainder) {
    std::transform(masters, masters + count, remainder.data<int16_t>(), cpu::Remainder);
  });
  ChangeOnHost(state.exp_avg_sq, [&](const TensorView& held) {
    auto* v = held.data<float>();
    for (int64_t i = 0; i < count; ++i) v[i] = cpu::WithTieBit(v[i], cpu::TieBit(masters[i]));
  });
}

void WriteSecondMoments(const TensorView& exp_avg_sq, const float* values) {
  ChangeOnHost(exp_avg_sq, [&](const TensorView& held) {
    auto* v = held.data<float>();
    for (int64_t i = 0; i < held.num_elements(); ++i) {
      const float plain = values[i] < 0 ? std::numeric_limits<float>::quiet_NaN() : values[i];
      v[i] = cpu::WithTieBit(plain, std::bit_cast<uint32_t>(v[i]) & cpu::kSignBit);
    }
  });
}

// Of f16 and bf16.
void WriteWeights(const TensorView& weight, const float* masters) {
  WriteFromHost(weight, [&](const TensorView& rounded) {
    if (rounded.dtype() == DType::kBFloat16) {
      cpu::Narrow(masters, rounded.data<BFloat16>(), rounded.num_elements());
    } else {
      cpu::Narrow(masters, rounded.data<Float16>(), rounded.num_elements());
    }
  });
}

}  // namespace

OptimizerState Rows(const OptimizerState& state, int64_t begin, int64_t count) {
  return {.weight = state.weight.Rows(begin, count),
          .master = state.master.empty() ? TensorView() : state.master.Rows(begin, count),
          .exp_avg = state.exp_avg.Rows(begin, count),
          .exp_avg_sq = state.exp_avg_sq.Rows(begin, count)};
}

std::optional<DType> MasterDType(DType compute_dtype) {
  switch (compute_dtype) {
    case DType::kBFloat16: return DType::kInt16;
    case DType::kFloat16: return DType::kFloat32;
    default: return std::nullopt;
  }
}

TensorView PlainValues(const OptimizerState& state, StateRole role) {
  switch (role) {
    case StateRole::kMaster:
      return state.weight.dtype() == DType::kFloat32 ? state.weight : TensorView();
    case StateRole::kExpAvg: return state.exp_avg;
    case StateRole::kExpAvgSq:
      return state.weight.dtype() == DType::kBFloat16 ? TensorView() : state.exp_avg_sq;
  }
  return {};
}

void ReadValues(const OptimizerState& state, StateRole role, const TensorView& values) {
  CheckValues(state, values);
  if (const TensorView plain = PlainValues(state, role); !plain.empty()) {
    CopyTensor(plain, values);
  } else if (role == StateRole::kExpAvgSq) {
    CopyTensor(state.exp_avg_sq, values);
    for (float& v : values.span<float>()) v = cpu::PlainSecondMoment(v);
  } else if (state.weight.dtype() == DType::kFloat16) {
    CopyTensor(state.master, values);
  } else {
    ReadSplitMasters(state, values.data<float>());
  }
}

void WriteValues(const OptimizerState& state, StateRole role, const ConstTensorView& values) {
  CheckValues(state, values);
  if (const TensorView plain = PlainValues(state, role); !plain.empty()) {
    CopyTensor(values, plain);
  } else if (role == StateRole::kExpAvgSq) {
    WriteSecondMoments(state.exp_avg_sq, values.data<float>());
  } else {
    const auto* masters = values.data<float>();
    WriteWeights(state.weight, masters);
    if (state.weight.dtype() == DType::kFloat16) {
      CopyTensor(values, state.master);
    } else {
      WriteSplitMasters(state, masters);
    }
  }
}

}  // namespace sepia::kernels
