#include "checkpoint/torch/pickle_symbols.h"

#include <array>

namespace sepia::checkpoint {
namespace {

struct Known {
  PickleSymbol symbol;
  PickleMaker maker;
};

constexpr std::array<Known, 4> kTorchTypes = {{
    {{"torch._utils", "_rebuild_tensor_v2"}, PickleMaker::kTensor},
    {{"torch._utils", "_rebuild_parameter"}, PickleMaker::kParameter},
    {{"collections", "OrderedDict"}, PickleMaker::kOrderedDict},
    {{"torch", "Size"}, PickleMaker::kSize},
}};

// Seen in mp_rank_* and zero_* files of DeeperSpeed 0.3.15 and DeepSpeed 0.14.5, of numpy 1 and 2,
// written by Python 2's and 3's names.
constexpr std::array<Known, 26> kDeepSpeedTypes = {{
    {{"deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"}, PickleMaker::kObject},
    {{"deepspeed.runtime.fp16.loss_scaler", "LossScaler"}, PickleMaker::kObject},
    {{"deepspeed.runtime.zero.config", "ZeroStageEnum"}, PickleMaker::kObject},
    {{"deepspeed.utils.tensor_fragment", "fragment_address"}, PickleMaker::kObject},
    {{"numpy.core.multiarray", "_reconstruct"}, PickleMaker::kObject},
    {{"numpy._core.multiarray", "_reconstruct"}, PickleMaker::kObject},
    {{"numpy.core.multiarray", "scalar"}, PickleMaker::kObject},
    {{"numpy._core.multiarray", "scalar"}, PickleMaker::kObject},
    {{"numpy", "ndarray"}, PickleMaker::kObject},
    {{"numpy", "dtype"}, PickleMaker::kObject},
    {{"_codecs", "encode"}, PickleMaker::kObject},
    {{"__builtin__", "set"}, PickleMaker::kObject},
    {{"builtins", "set"}, PickleMaker::kObject},
    {{"torch", "device"}, PickleMaker::kObject},
    {{"torch", "float16"}, PickleMaker::kNothing},
    {{"torch", "float32"}, PickleMaker::kNothing},
    {{"torch", "float64"}, PickleMaker::kNothing},
    {{"torch", "half"}, PickleMaker::kNothing},
    {{"torch", "bfloat16"}, PickleMaker::kNothing},
    {{"torch", "int8"}, PickleMaker::kNothing},
    {{"torch", "int16"}, PickleMaker::kNothing},
    {{"torch", "int32"}, PickleMaker::kNothing},
    {{"torch", "int64"}, PickleMaker::kNothing},
    {{"torch", "uint8"}, PickleMaker::kNothing},
    {{"torch", "bool"}, PickleMaker::kNothing},
    {{"torch", "float"}, PickleMaker::kNothing},
}};

struct StorageType {
  std::string_view name;
  DType dtype;
};
constexpr std::array<StorageType, 10> kStorages = {{
    {"HalfStorage", DType::kFloat16},
    {"BFloat16Storage", DType::kBFloat16},
    {"FloatStorage", DType::kFloat32},
    {"DoubleStorage", DType::kFloat64},
    {"LongStorage", DType::kInt64},
    {"IntStorage", DType::kInt32},
    {"ShortStorage", DType::kInt16},
    {"CharStorage", DType::kInt8},
    {"ByteStorage", DType::kUInt8},
    {"BoolStorage", DType::kBool},
}};

}  // namespace

std::optional<PickleMaker> FindMaker(const PickleSymbol& symbol, PickleMode mode) {
  for (const Known& known : kTorchTypes) {
    if (known.symbol == symbol) return known.maker;
  }
  if (StorageDType(symbol)) return PickleMaker::kNothing;
  if (mode != PickleMode::kDeepSpeed) return std::nullopt;
  for (const Known& known : kDeepSpeedTypes) {
    if (known.symbol == symbol) return known.maker;
  }
  return std::nullopt;
}

std::optional<DType> StorageDType(const PickleSymbol& symbol) {
  if (symbol.module != "torch") return std::nullopt;
  for (const StorageType& type : kStorages) {
    if (type.name == symbol.name) return type.dtype;
  }
  return std::nullopt;
}

}  // namespace sepia::checkpoint
