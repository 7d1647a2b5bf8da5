#include "checkpoint/torch/pickle_tensor.h"

#include <algorithm>

#include <fmt/format.h>

#include "checkpoint/file_name.h"
#include "checkpoint/torch/pickle_symbols.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 48;

// Up to five non-negative integers; empty where `value` is something else.
std::optional<std::vector<int64_t>> Integers(const PickleValue& value) {
  const auto* tuple = PointerTo<PickleSequence>(value);
  if (tuple == nullptr || !tuple->is_tuple) return std::nullopt;
  if (tuple->items.size() > static_cast<size_t>(Shape::kMaxRank)) return std::nullopt;
  std::vector<int64_t> integers;
  for (const PickleValue& item : tuple->items) {
    const auto* integer = std::get_if<int64_t>(&item);
    if (integer == nullptr || *integer < 0) return std::nullopt;
    integers.push_back(*integer);
  }
  return integers;
}

// "" when the view lies in its storage.
std::string CheckExtent(const std::vector<int64_t>& sizes, const TorchTensor& tensor) {
  const int64_t limit = tensor.storage->num_elements;
  int64_t elements = 1;  // zeros left out: the shape must be addressable all the same
  int64_t last = tensor.offset;
  bool is_empty = false;
  for (size_t d = 0; d < sizes.size(); ++d) {
    is_empty = is_empty || sizes[d] == 0;
    const int64_t size = std::max<int64_t>(sizes[d], 1);
    int64_t span = 0;
    if (__builtin_mul_overflow(elements, size, &elements) || elements > kMaxElements ||
        __builtin_mul_overflow(size - 1, tensor.strides[d], &span) ||
        __builtin_add_overflow(last, span, &last)) {
      return "the extent of a tensor overflows";
    }
  }
  if (is_empty) return tensor.offset <= limit ? "" : "a tensor begins past its storage";
  if (last >= limit) return "a tensor leaves its storage";
  if (elements > limit) return "a tensor has more elements than its storage (zero strides)";
  return "";
}

}  // namespace

std::variant<TorchStorage, std::string> MakeTorchStorage(const PickleValue& persistent_id) {
  const auto* tuple = PointerTo<PickleSequence>(persistent_id);
  if (tuple == nullptr || tuple->items.size() < 5 || tuple->items.size() > 6) {
    return "a persistent id that is no storage";
  }
  const auto& items = tuple->items;
  const auto* tag = std::get_if<std::string_view>(&items[0]);
  const auto* type = PointerTo<PickleSymbol>(items[1]);
  const auto* key = std::get_if<std::string_view>(&items[2]);
  const auto* count = std::get_if<int64_t>(&items[4]);
  if (tag == nullptr || *tag != "storage" || type == nullptr || key == nullptr ||
      count == nullptr) {
    return "a persistent id that is no storage";
  }
  const std::optional<DType> dtype = StorageDType(*type);
  if (!dtype) return fmt::format("the storage type {} is unknown", type->FullName());
  if (!IsPlainFileName(*key)) return "a bad storage key";
  if (*count < 0 || *count > kMaxElements) {
    return fmt::format("a storage of {} elements", *count);
  }
  if (items.size() == 6 && !std::holds_alternative<PickleNone>(items[5])) {
    return "a storage that is a view of another one";
  }
  return TorchStorage{*dtype, *key, *count};
}

std::variant<TorchTensor, std::string> MakeTorchTensor(const PickleSequence& arguments) {
  const auto& items = arguments.items;
  if (items.size() < 6 || items.size() > 7) return "wrong number of _rebuild_tensor_v2 arguments";
  TorchTensor tensor;
  tensor.storage = PointerTo<TorchStorage>(items[0]);
  const auto* offset = std::get_if<int64_t>(&items[1]);
  const auto sizes = Integers(items[2]);
  const auto strides = Integers(items[3]);
  if (tensor.storage == nullptr || offset == nullptr || *offset < 0 || !sizes || !strides ||
      sizes->size() != strides->size()) {
    return fmt::format(
        "bad _rebuild_tensor_v2 arguments: a storage, a non-negative offset, and as many "
        "non-negative sizes as strides, at most {}, are needed",
        Shape::kMaxRank);
  }
  tensor.offset = *offset;
  tensor.strides = *strides;
  std::string fault = CheckExtent(*sizes, tensor);
  if (!fault.empty()) return fault;
  tensor.shape = Shape(std::span<const int64_t>(*sizes));
  return tensor;
}

}  // namespace sepia::checkpoint
