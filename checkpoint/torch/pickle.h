// Pickles of PyTorch as data. A pickle is a program for a stack machine; this reader runs the
// opcodes that build values and turns everything that Python would call into a description of it.
// Nothing is imported, called or executed, and names outside a fixed list are refused.
// Opcodes: CPython Lib/pickletools.py. What torch puts in: torch/serialization.py, torch/_utils.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/dtype.h"
#include "base/shape.h"

namespace sepia::checkpoint {

// "torch._utils", "_rebuild_tensor_v2": a Python name. Text lies in the pickle.
struct PickleSymbol {
  std::string_view module;
  std::string_view name;
  std::string FullName() const { return std::string(module) + "." + std::string(name); }
  friend bool operator==(const PickleSymbol&, const PickleSymbol&) = default;
};

// An integer past int64: two's complement, little-endian.
struct PickleLong {
  std::string_view bytes;
};

struct PickleNone {};
struct PickleSequence;
struct PickleDict;
struct PickleObject;
struct TorchStorage;
struct TorchTensor;

// Pointers are owned by the Pickle and never null. torch.Size is a tuple, a Parameter its tensor.
using PickleValue = std::variant<PickleNone, bool, int64_t, double, std::string_view, PickleLong,
                                 const PickleSymbol*, PickleSequence*, PickleDict*, PickleObject*,
                                 const TorchStorage*, const TorchTensor*>;

struct PickleSequence {
  bool is_tuple = false;
  std::vector<PickleValue> items;
  int height = -1;  // for the check against cycles
};

// Keys are strings or integers, unique.
struct PickleDict {
  bool is_ordered = false;  // collections.OrderedDict
  std::vector<std::pair<PickleValue, PickleValue>> items;
  int height = -1;
};

// An instance of a class that this reader knows by name only.
struct PickleObject {
  PickleSymbol type;
  PickleValue arguments;
  PickleValue state;  // none when the pickle sets none
  int height = -1;
};

struct TorchStorage {
  DType dtype = DType::kFloat32;
  std::string_view key;  // a plain file name
  int64_t num_elements = 0;
};

// A strided view of a storage, inside it and with at most as many elements. Units: elements.
struct TorchTensor {
  const TorchStorage* storage = nullptr;
  int64_t offset = 0;
  Shape shape;
  std::vector<int64_t> strides;
};

enum class PickleMode : uint8_t {
  kWeights,    // state dicts: tensors and containers
  kDeepSpeed,  // also the optimizer, scaler and RNG objects of NeoX checkpoints, as descriptions
};

// A parsed pickle; the text must outlive it. Movable.
class Pickle {
 public:
  const PickleValue& root() const { return root_; }
  // Bytes up to and including STOP.
  int64_t size() const { return size_; }
  // By key; each key stands for one storage.
  std::span<const TorchStorage* const> storages() const { return storages_; }

 private:
  friend class PickleMachine;
  PickleValue root_;
  int64_t size_ = 0;
  std::vector<const TorchStorage*> storages_;
  // Deques: addresses stay.
  std::deque<PickleSymbol> symbols_;
  std::deque<PickleSequence> sequences_;
  std::deque<PickleDict> dicts_;
  std::deque<PickleObject> objects_;
  std::deque<TorchStorage> storage_pool_;
  std::deque<TorchTensor> tensors_;
};

struct PickleLimits {
  PickleMode mode = PickleMode::kWeights;
  int64_t max_memory = 4 << 20;  // bytes of all values made, a multiple of which is allocated
};

// The pickle that begins `text`. Throws BadData with `path` and `base` + the position of the fault.
Pickle ParsePickle(std::string_view text, const std::string& path, int64_t base,
                   const PickleLimits& limits);

// "a string", "a dict", "the object os.system", ...
std::string Describe(const PickleValue& value);

// Null when absent.
const PickleValue* FindKey(const PickleDict& dict, std::string_view key);

// The pointee for containers, objects, storages and tensors; null when `value` is something else.
template <typename T>
const T* PointerTo(const PickleValue& value) {
  if constexpr (std::is_same_v<T, TorchTensor> || std::is_same_v<T, TorchStorage> ||
                std::is_same_v<T, PickleSymbol>) {
    const auto* found = std::get_if<const T*>(&value);
    return found == nullptr ? nullptr : *found;
  } else {
    const auto* found = std::get_if<T*>(&value);
    return found == nullptr ? nullptr : *found;
  }
}

}  // namespace sepia::checkpoint
