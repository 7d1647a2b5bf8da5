#include "checkpoint/neox/neox_optimizer.h"

#include <algorithm>

#include "base/error.h"

namespace sepia::checkpoint {
namespace {

constexpr size_t kRoles = 3;
constexpr const char* kMoments[] = {nullptr, "exp_avg", "exp_avg_sq"};  // by role
constexpr const char* kOldMasters = "local_sub_partitions_of_fp32_groups";
constexpr const char* kNewMasters = "single_partition_of_fp32_groups";

size_t RoleIndex(Role role) { return role == Role::kExpAvg ? 1 : role == Role::kExpAvgSq ? 2 : 0; }

NeoxDict StateOf(const TorchFile& file) {
  return NeoxDict(file.RootDict(), file.path()).GetDict("optimizer_state_dict");
}

// Integers as such, as an enum (ZeroStageEnum(1)), or as a list with one entry a group.
std::optional<int64_t> LooseInteger(const PickleValue* value) {
  if (value == nullptr) return std::nullopt;
  if (const auto* integer = std::get_if<int64_t>(value)) return *integer;
  if (const auto* object = PointerTo<PickleObject>(*value)) return LooseInteger(&object->arguments);
  const auto* sequence = PointerTo<PickleSequence>(*value);
  if (sequence == nullptr || sequence->items.empty()) return std::nullopt;
  const auto* first = std::get_if<int64_t>(&sequence->items.front());
  return first == nullptr ? std::nullopt : std::optional(*first);
}

void CheckStage(const TorchFile& file) {
  const NeoxDict state = StateOf(file);
  const auto stage = LooseInteger(state.Find("zero_stage"));
  if (stage && *stage > 1) {
    state.Fail("zero_stage", fmt::format("is {}; Sepia reads stage 1", *stage));
  }
  const NeoxDict root(file.RootDict(), file.path());
  if (root.Find("ds_config") == nullptr) return;
  const NeoxDict config = root.GetDict("ds_config");
  if (config.Find("zero_optimization") == nullptr) return;
  const NeoxDict zero = config.GetDict("zero_optimization");
  const PickleValue* round_robin = zero.Find("round_robin_gradients");
  if (round_robin != nullptr && !std::holds_alternative<bool>(*round_robin)) return;
  if (round_robin != nullptr && std::get<bool>(*round_robin)) {
    zero.Fail("round_robin_gradients", "is true: the order of such partitions is not recorded");
  }
}

void CheckDataRanks(const NeoxRankFiles& files) {
  for (const auto& file : files.optimizers) {
    const auto ranks = LooseInteger(StateOf(*file).Find("partition_count"));
    if (!ranks || *ranks == static_cast<int64_t>(files.optimizers.size())) continue;
    throw BadData(file->path(), -1,
                  fmt::format("{} data ranks wrote this optimizer state, the files of {} are here",
                              *ranks, files.optimizers.size()),
                  "every rank's file is needed: fetch the missing ones");
  }
}

TensorInFile FlatTensor(const TorchFile& file, const PickleValue& value, const char* what) {
  const auto* tensor = PointerTo<TorchTensor>(value);
  if (tensor == nullptr || tensor->shape.rank() != 1 || tensor->storage->dtype != DType::kFloat32) {
    throw BadData(file.path(), -1, fmt::format("{} is no flat fp32 tensor", what));
  }
  return {&file, tensor};
}

const PickleValue& At(const TorchFile& file, const PickleSequence& list, size_t i,
                      const char* what) {
  if (i < list.items.size()) return list.items[i];
  throw BadData(file.path(), -1, fmt::format("{} has {} entries only", what, list.items.size()));
}

const PickleSequence& SequenceAt(const TorchFile& file, const PickleSequence& list, size_t i,
                                 const char* what) {
  const auto* inner = PointerTo<PickleSequence>(At(file, list, i, what));
  if (inner != nullptr) return *inner;
  throw BadData(file.path(), -1, fmt::format("{} is no list of lists", what));
}

void AppendWhole(const TensorInFile& piece, FlatVector* to) {
  to->Append(piece, piece.tensor->shape[0]);
}

// Old form: sub-partition number interval * ranks + rank, so intervals come first. Tensors are
// lean: padding is cut off, though their storages still hold it.
void ReadOldGroup(const NeoxRankFiles& files, size_t group, FlatVector (&values)[kRoles]) {
  const TorchFile& first = *files.optimizers.front();
  const size_t intervals =
      SequenceAt(first, StateOf(first).GetSequence(kOldMasters), group, kOldMasters).items.size();
  for (size_t interval = 0; interval < intervals; ++interval) {
    for (const auto& file : files.optimizers) {
      const NeoxDict state = StateOf(*file);
      const auto& masters = SequenceAt(*file, state.GetSequence(kOldMasters), group, kOldMasters);
      AppendWhole(FlatTensor(*file, At(*file, masters, interval, kOldMasters), kOldMasters),
                  &values[0]);
      const auto& moments = SequenceAt(*file, state.GetSequence("base_optimizer_state"), group,
                                       "base_optimizer_state");
      const auto* dict =
          PointerTo<PickleDict>(At(*file, moments, interval, "base_optimizer_state"));
      if (dict == nullptr) throw BadData(file->path(), -1, "base_optimizer_state holds no dicts");
      const NeoxDict adam(*dict, file->path(), "base_optimizer_state.");
      for (size_t r = 1; r < kRoles; ++r) {
        AppendWhole(FlatTensor(*file, adam.Get(kMoments[r]), kMoments[r]), &values[r]);
      }
    }
  }
}

// {state: {group: {...}}, param_groups}, or, with elastic_checkpoint, a list with one dict a group.
NeoxDict NewMoments(const TorchFile& file, size_t group) {
  const NeoxDict state = StateOf(file);
  const PickleValue& base = state.Get("base_optimizer_state");
  const PickleDict* dict = nullptr;
  if (const auto* list = PointerTo<PickleSequence>(base)) {
    dict = PointerTo<PickleDict>(At(file, *list, group, "base_optimizer_state"));
  } else {
    for (const auto& [key, value] :
         state.GetDict("base_optimizer_state").GetDict("state").dict().items) {
      const auto* number = std::get_if<int64_t>(&key);
      if (number != nullptr && *number == static_cast<int64_t>(group)) {
        dict = PointerTo<PickleDict>(value);
      }
    }
  }
  if (dict == nullptr) {
    throw BadData(file.path(), -1, fmt::format("base_optimizer_state lacks group {}", group));
  }
  return {*dict, file.path(), "base_optimizer_state."};
}

// New form: rank r holds the r-th contiguous slice.
void ReadNewGroup(const NeoxRankFiles& files, size_t group, FlatVector (&values)[kRoles]) {
  for (const auto& file : files.optimizers) {
    const auto& masters = StateOf(*file).GetSequence(kNewMasters);
    AppendWhole(FlatTensor(*file, At(*file, masters, group, kNewMasters), kNewMasters), &values[0]);
    const NeoxDict adam = NewMoments(*file, group);
    for (size_t r = 1; r < kRoles; ++r) {
      AppendWhole(FlatTensor(*file, adam.Get(kMoments[r]), kMoments[r]), &values[r]);
    }
  }
}

// get_params_for_weight_decay_optimization of megatron/model/utils.py: biases and norms do not
// decay.
bool Decays(std::string_view name) {
  return !name.ends_with(".bias") && name.find("norm") == std::string_view::npos;
}
bool DoesNotDecay(std::string_view name) { return !Decays(name); }
bool Any(std::string_view) { return true; }

// One dict a group, in the order of the flat buffers.
NeoxDict NewShapes(const NeoxRankFiles& files, size_t group) {
  if (files.states == nullptr) {
    throw BadData(files.optimizers.front()->path(), -1,
                  "the mp_rank_XX_model_states.pt file beside it is missing",
                  "it says how the optimizer's buffers are divided");
  }
  const TorchFile& file = *files.states;
  const NeoxDict root(file.RootDict(), file.path());
  const auto* dict =
      PointerTo<PickleDict>(At(file, root.GetSequence("param_shapes"), group, "param_shapes"));
  if (dict == nullptr) root.Fail("param_shapes", "holds no dicts");
  return {*dict, file.path(), "param_shapes."};
}

Shape ShapeOf(const NeoxDict& shapes, std::string_view name, const PickleValue& value) {
  const auto* tuple = PointerTo<PickleSequence>(value);
  if (tuple == nullptr || tuple->items.empty() || tuple->items.size() > 2) {
    shapes.Fail(name, "is no shape of a parameter");
  }
  std::vector<int64_t> dims;
  for (const PickleValue& item : tuple->items) {
    const auto* dim = std::get_if<int64_t>(&item);
    if (dim == nullptr || *dim <= 0 || *dim > (int64_t{1} << 30)) {
      shapes.Fail(name, "is no shape of a parameter");
    }
    dims.push_back(*dim);
  }
  return Shape(std::span<const int64_t>(dims));
}

}  // namespace

void FlatVector::Append(const TensorInFile& piece, int64_t length) {
  pieces_.push_back(piece);
  begins_.push_back(end_);
  end_ += length;
}

void FlatVector::Read(int64_t begin, std::span<float> out) const {
  CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= end_);
  auto i = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), begin) -
                               begins_.begin()) -
           1;
  for (; !out.empty(); ++i) {
    const int64_t end = i + 1 < begins_.size() ? begins_[i + 1] : end_;
    const int64_t count = std::min<int64_t>(end - begin, static_cast<int64_t>(out.size()));
    pieces_[i].file->ReadFloats(*pieces_[i].tensor, {{begin - begins_[i]}, {count}},
                                out.first(static_cast<size_t>(count)));
    out = out.subspan(static_cast<size_t>(count));
    begin += count;
  }
}

NeoxOptimizer::NeoxOptimizer(const NeoxRankFiles& files) {
  CHECK(!files.optimizers.empty());
  for (const auto& file : files.optimizers) CheckStage(*file);
  CheckDataRanks(files);
  const TorchFile& first = *files.optimizers.front();
  const NeoxDict state = StateOf(first);
  const bool is_old = state.Find(kOldMasters) != nullptr;
  const size_t count = state.GetSequence(is_old ? kOldMasters : kNewMasters).items.size();
  if (count == 0 || (is_old && count > 2)) {
    state.Fail(kOldMasters, fmt::format("has {} groups, expected one or two", count));
  }
  groups_.resize(count);
  for (size_t g = 0; g < count; ++g) {
    int64_t wanted = 0;
    if (is_old) {
      ReadOldGroup(files, g, groups_[g].values);
      const NeoxDict root(first.RootDict(), first.path());
      wanted = Lay(root.GetDict("param_shapes"), g,
                   count == 1 ? Any
                   : g == 0   ? Decays
                              : DoesNotDecay);
    } else {
      ReadNewGroup(files, g, groups_[g].values);
      wanted = Lay(NewShapes(files, g), g, Any);
    }
    // DeepSpeed pads to a multiple of 2 * ranks.
    const auto ranks = static_cast<int64_t>(files.optimizers.size());
    CheckSizes(first.path(), g, wanted, is_old ? 0 : 2 * ranks - 1);
  }
}

int64_t NeoxOptimizer::Lay(const NeoxDict& param_shapes, size_t group,
                           bool (*belongs)(std::string_view)) {
  int64_t elements = 0;
  for (const auto& [key, value] : param_shapes.dict().items) {
    const auto* name = std::get_if<std::string_view>(&key);
    if (name == nullptr) param_shapes.Fail("a key", "is no string");
    if (!belongs(*name)) continue;
    const Shape shape = ShapeOf(param_shapes, *name, value);
    if (!shapes_.emplace(*name, shape).second) param_shapes.Fail(*name, "is in two groups");
    locations_[std::string(*name)] = {group, elements};
    elements += shape.num_elements();
  }
  return elements;
}

void NeoxOptimizer::CheckSizes(const std::string& path, size_t group, int64_t wanted,
                               int64_t max_padding) const {
  for (const FlatVector& values : groups_[group].values) {
    if (values.size() >= wanted && values.size() - wanted <= max_padding) continue;
    throw BadData(path, -1,
                  fmt::format("optimizer group {} has {} elements, its parameters {}", group,
                              values.size(), wanted),
                  "a file is missing, damaged or of another checkpoint");
  }
}

void NeoxOptimizer::Read(const std::string& name, Role role, const Rectangle& part,
                         std::span<float> out) const {
  const Location& location = locations_.at(name);
  const FlatVector& values = groups_[location.group].values[RoleIndex(role)];
  ForEachRun(part, Rectangle::Whole(shapes_.at(name)), part,
             [&](int64_t from, int64_t to, int64_t count) {
               values.Read(location.begin + from,
                           out.subspan(static_cast<size_t>(to), static_cast<size_t>(count)));
             });
}

}  // namespace sepia::checkpoint
