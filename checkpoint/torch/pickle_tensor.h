// Storages and tensors out of the arguments that torch pickles for them.
#pragma once

#include <string>
#include <variant>

#include "checkpoint/torch/pickle.h"

namespace sepia::checkpoint {

// Both return what they made or, as a string, what is wrong.

// persistent id ("storage", torch.XStorage, key, location, number of elements[, None]); the
// location
// ("cpu", "cuda:3") says nothing about the data.
std::variant<TorchStorage, std::string> MakeTorchStorage(const PickleValue& persistent_id);

// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]).
std::variant<TorchTensor, std::string> MakeTorchTensor(const PickleSequence& arguments);

}  // namespace sepia::checkpoint
