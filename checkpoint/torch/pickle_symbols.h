// The Python names that a pickle may mention.
#pragma once

#include <optional>

#include "checkpoint/torch/pickle.h"

namespace sepia::checkpoint {

// What REDUCE with this name makes.
enum class PickleMaker : uint8_t {
  kNothing,      // a value only: a dtype, a class for NEWOBJ
  kTensor,       // torch._utils._rebuild_tensor_v2
  kParameter,    // torch._utils._rebuild_parameter: its tensor
  kOrderedDict,  // collections.OrderedDict
  kSize,         // torch.Size: its tuple
  kObject,       // a description
};

// Nothing for names that this mode refuses.
std::optional<PickleMaker> FindMaker(const PickleSymbol& symbol, PickleMode mode);

// Element type of torch.HalfStorage and its kin.
std::optional<DType> StorageDType(const PickleSymbol& symbol);

}  // namespace sepia::checkpoint
