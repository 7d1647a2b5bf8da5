#include <array>
#include <cstring>
#include <map>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/torch/pickle.h"
#include "checkpoint/torch/pickle_symbols.h"
#include "checkpoint/torch/pickle_tensor.h"
#include "checkpoint/torch/pickle_tree.h"

namespace sepia::checkpoint {
namespace {

constexpr size_t kMaxSymbolBytes = 256;
constexpr uint32_t kMaxStringBytes = 16 << 20;
constexpr uint32_t kMaxMemo = 1 << 24;
// What a container costs beside its items, allocator and memo included.
constexpr int64_t kContainerBytes = 160;

enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kEmptyList = ']',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyTuple = ')',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
};

}  // namespace

class PickleMachine {
 public:
  PickleMachine(std::string_view text, const std::string& path, int64_t base,
                const PickleLimits& limits)
      : text_(text), path_(path), base_(base), limits_(limits) {}

  Pickle Run() {
    while (!stopped_) {
      opcode_at_ = at_;
      Step(Number<uint8_t>());
    }
    pickle_.root_ = Pop();
    if (!stack_.empty() || !marks_.empty()) Fail("values remain on the stack at STOP");
    if (const auto fault = FindPickleTreeFault(pickle_.root_)) Fail(*fault);
    pickle_.size_ = static_cast<int64_t>(at_);
    for (const auto& [key, storage] : storages_) pickle_.storages_.push_back(storage);
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void Fail(const std::string& reason) const {
    throw BadData(path_, base_ + static_cast<int64_t>(opcode_at_), "pickle: " + reason,
                  "the file is damaged, hostile, or not a checkpoint of PyTorch");
  }

  // --- input ---

  std::string_view Take(size_t count) {
    if (count > text_.size() - at_) Fail("it ends inside a value (or before STOP)");
    at_ += count;
    return text_.substr(at_ - count, count);
  }
  template <typename T>
  T Number() {
    T value;
    std::memcpy(&value, Take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view Line() {
    const size_t end = text_.substr(at_, kMaxSymbolBytes).find('\n');
    if (end == std::string_view::npos) Fail("an unterminated name");
    const std::string_view line = Take(end);
    Take(1);
    return line;
  }

  // --- stack ---

  void Charge(int64_t bytes) {
    memory_ += bytes;
    if (memory_ > limits_.max_memory) Fail("too many values for a file of this size");
  }
  void Push(PickleValue value) {
    Charge(sizeof(PickleValue));
    stack_.push_back(value);
  }
  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }
  PickleValue Pop() {
    if (stack_.size() <= Floor()) Fail("stack underflow");
    const PickleValue value = stack_.back();
    stack_.pop_back();
    return value;
  }
  const PickleValue& Top() const {
    if (stack_.size() <= Floor()) Fail("stack underflow");
    return stack_.back();
  }
  std::vector<PickleValue> PopToMark() {
    if (marks_.empty()) Fail("no mark");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleValue> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    Charge(static_cast<int64_t>(items.size() * sizeof(PickleValue)));
    return items;
  }

  // --- values ---

  void PushTuple(size_t count) {
    std::vector<PickleValue> items(count);
    for (size_t i = count; i-- > 0;) items[i] = Pop();
    PushSequence(std::move(items), true);
  }
  void PushSequence(std::vector<PickleValue> items, bool is_tuple) {
    Charge(kContainerBytes);
    pickle_.sequences_.push_back({is_tuple, std::move(items)});
    Push(&pickle_.sequences_.back());
  }
  void PushDict(bool is_ordered) {
    Charge(kContainerBytes);
    pickle_.dicts_.push_back({is_ordered, {}});
    Push(&pickle_.dicts_.back());
  }
  void PushObject(const PickleSymbol& type, const PickleValue& arguments) {
    Charge(kContainerBytes);
    pickle_.objects_.push_back({type, arguments, PickleNone()});
    Push(&pickle_.objects_.back());
  }
  void PushString() {
    const auto size = Number<uint32_t>();
    if (size > kMaxStringBytes) Fail(fmt::format("a string of {} bytes", size));
    const std::string_view text = Take(size);
    if (FirstInvalidUtf8(text) != text.size()) Fail("a string is not UTF-8");
    Push(text);
  }
  void PushLong() {
    const std::string_view bytes = Take(Number<uint8_t>());
    if (bytes.size() > sizeof(int64_t)) return Push(PickleLong{bytes});
    const bool negative = !bytes.empty() && (bytes.back() & 0x80) != 0;
    int64_t value = negative ? -1 : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    Push(value);
  }
  void PushBigEndianDouble() {
    const uint64_t bits = __builtin_bswap64(Number<uint64_t>());
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    Push(value);
  }
  void PushGlobal() {
    const std::string_view module = Line();
    const PickleSymbol symbol{module, Line()};
    if (!FindMaker(symbol, limits_.mode)) {
      Fail(
          fmt::format("it asks Python for {}, which is forbidden here: loading it elsewhere could "
                      "run code",
                      symbol.FullName()));
    }
    Charge(kContainerBytes);
    pickle_.symbols_.push_back(symbol);
    Push(&pickle_.symbols_.back());
  }
  void PushStorage() {
    auto made = MakeTorchStorage(Pop());
    if (const auto* fault = std::get_if<std::string>(&made)) Fail(*fault);
    const TorchStorage& storage = std::get<TorchStorage>(made);
    const auto [place, is_new] = storages_.emplace(storage.key, nullptr);
    if (is_new) {
      Charge(kContainerBytes);
      pickle_.storage_pool_.push_back(storage);
      place->second = &pickle_.storage_pool_.back();
    } else if (place->second->dtype != storage.dtype ||
               place->second->num_elements != storage.num_elements) {
      Fail(fmt::format("storage '{}' is described in two ways", storage.key));
    }
    Push(place->second);
  }

  // --- what Python would call ---

  void Reduce() {
    const PickleValue arguments = Pop();
    const PickleValue callee = Pop();
    const auto* symbol = PointerTo<PickleSymbol>(callee);
    if (symbol == nullptr) Fail("REDUCE calls " + Describe(callee));
    const auto* tuple = PointerTo<PickleSequence>(arguments);
    if (tuple == nullptr || !tuple->is_tuple) Fail("REDUCE without a tuple");
    const auto& items = tuple->items;
    switch (*FindMaker(*symbol, limits_.mode)) {
      case PickleMaker::kTensor: return PushTensor(*tuple);
      case PickleMaker::kObject: return PushObject(*symbol, arguments);
      case PickleMaker::kOrderedDict:
        if (!items.empty()) break;
        return PushDict(true);
      case PickleMaker::kParameter:
        if (items.size() != 3 || PointerTo<TorchTensor>(items[0]) == nullptr) break;
        return Push(items[0]);
      case PickleMaker::kSize:
        if (items.size() != 1 || PointerTo<PickleSequence>(items[0]) == nullptr) break;
        return Push(items[0]);
      case PickleMaker::kNothing: break;
    }
    Fail(fmt::format("bad arguments for {}", symbol->FullName()));
  }
  void PushTensor(const PickleSequence& arguments) {
    auto made = MakeTorchTensor(arguments);
    if (const auto* fault = std::get_if<std::string>(&made)) Fail(*fault);
    Charge(2 * kContainerBytes);
    pickle_.tensors_.push_back(std::move(std::get<TorchTensor>(made)));
    Push(&pickle_.tensors_.back());
  }
  void NewObject() {
    const PickleValue arguments = Pop();
    const PickleValue type = Pop();
    const auto* symbol = PointerTo<PickleSymbol>(type);
    if (symbol == nullptr || PointerTo<PickleSequence>(arguments) == nullptr) {
      Fail("NEWOBJ without a class and a tuple");
    }
    if (*FindMaker(*symbol, limits_.mode) != PickleMaker::kObject) {
      Fail(fmt::format("NEWOBJ of {}", symbol->FullName()));
    }
    PushObject(*symbol, arguments);
  }
  // Attributes: of a description, kept; of an OrderedDict ("_metadata" of a state dict), ignored.
  void Build() {
    const PickleValue state = Pop();
    const PickleValue& target = Top();
    if (auto* object = std::get_if<PickleObject*>(&target)) {
      (*object)->state = state;
      return;
    }
    const auto* dict = PointerTo<PickleDict>(target);
    if (dict == nullptr || !dict->is_ordered || PointerTo<PickleDict>(state) == nullptr) {
      Fail("BUILD of " + Describe(target));
    }
  }

  // --- containers ---

  void Append(std::span<const PickleValue> items) {
    auto* const* list = std::get_if<PickleSequence*>(&Top());
    if (list == nullptr || (*list)->is_tuple) Fail("APPEND to " + Describe(Top()));
    Charge(static_cast<int64_t>(items.size() * sizeof(PickleValue)));
    (*list)->items.insert((*list)->items.end(), items.begin(), items.end());
  }
  void SetItems(std::span<const PickleValue> items) {
    if (items.size() % 2 != 0) Fail("an odd number of items for a dict");
    auto* const* dict = std::get_if<PickleDict*>(&Top());
    if (dict == nullptr) Fail("SETITEM on " + Describe(Top()));
    Charge(static_cast<int64_t>(items.size() * sizeof(PickleValue)));
    for (size_t i = 0; i < items.size(); i += 2) {
      const bool plain = std::holds_alternative<std::string_view>(items[i]) ||
                         std::holds_alternative<int64_t>(items[i]);
      if (!plain) Fail(Describe(items[i]) + " as key of a dict");
      (*dict)->items.emplace_back(items[i], items[i + 1]);
    }
  }

  // --- memo ---

  void Put(uint32_t index) {
    if (index > kMaxMemo) Fail(fmt::format("memo index {}", index));
    Charge(kContainerBytes / 2);
    memo_[index] = Top();
  }
  void Get(uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) Fail(fmt::format("memo entry {} does not exist", index));
    Push(found->second);
  }

  void Step(uint8_t opcode) {
    switch (opcode) {
      case kProto:
        if (const int protocol = Number<uint8_t>(); protocol != 2) {
          Fail(fmt::format("protocol {}; torch.save writes 2 unless told otherwise", protocol));
        }
        return;
      case kStop: stopped_ = true; return;
      case kMark:
        Charge(sizeof(size_t));
        marks_.push_back(stack_.size());
        return;
      case kPop: Pop(); return;
      case kNone: return Push(PickleNone());
      case kNewTrue: return Push(true);
      case kNewFalse: return Push(false);
      case kBinInt: return Push(int64_t{Number<int32_t>()});
      case kBinInt1: return Push(int64_t{Number<uint8_t>()});
      case kBinInt2: return Push(int64_t{Number<uint16_t>()});
      case kLong1: return PushLong();
      case kBinFloat: return PushBigEndianDouble();
      case kBinUnicode: return PushString();
      case kEmptyTuple: return PushTuple(0);
      case kTuple1: return PushTuple(1);
      case kTuple2: return PushTuple(2);
      case kTuple3: return PushTuple(3);
      case kTuple: return PushSequence(PopToMark(), true);
      case kEmptyList: return PushSequence({}, false);
      case kEmptyDict: return PushDict(false);
      case kAppend: return Append(std::array{Pop()});
      case kAppends: return Append(PopToMark());
      case kSetItem: {
        const PickleValue value = Pop();
        const PickleValue key = Pop();
        return SetItems(std::array{key, value});
      }
      case kSetItems: return SetItems(PopToMark());
      case kBinPut: return Put(Number<uint8_t>());
      case kLongBinPut: return Put(Number<uint32_t>());
      case kBinGet: return Get(Number<uint8_t>());
      case kLongBinGet: return Get(Number<uint32_t>());
      case kGlobal: return PushGlobal();
      case kReduce: return Reduce();
      case kNewObj: return NewObject();
      case kBuild: return Build();
      case kBinPersId: return PushStorage();
      default: Fail(fmt::format("opcode 0x{:02x} has no place in a checkpoint", opcode));
    }
  }

  std::string_view text_;
  const std::string& path_;
  int64_t base_;
  PickleLimits limits_;
  Pickle pickle_;
  size_t at_ = 0;
  size_t opcode_at_ = 0;
  bool stopped_ = false;
  int64_t memory_ = 0;
  std::vector<PickleValue> stack_;
  std::vector<size_t> marks_;
  std::map<uint32_t, PickleValue> memo_;
  std::map<std::string_view, const TorchStorage*> storages_;
};

Pickle ParsePickle(std::string_view text, const std::string& path, int64_t base,
                   const PickleLimits& limits) {
  return PickleMachine(text, path, base, limits).Run();
}

}  // namespace sepia::checkpoint
