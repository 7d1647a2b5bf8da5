#include "checkpoint/neox/neox_files.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/file_name.h"
#include "checkpoint/import/hf_layout.h"

namespace sepia::checkpoint {
namespace {

constexpr int kMaxRanks = 4096;

struct FileName {
  enum class Kind : uint8_t { kLayer, kStates, kOptimizer } kind;
  int first = 0;  // layer, or data rank
  int rank = 0;   // tensor-parallel
};

std::optional<FileName> ParseFileName(const std::string& name) {
  using Kind = FileName::Kind;
  constexpr std::pair<Kind, const char*> kPatterns[] = {
      {Kind::kLayer, "layer_%4d-model_%4d-model_states.pt%n"},
      {Kind::kOptimizer, "zero_pp_rank_%4d_mp_rank_%4d_optim_states.pt%n"},
      {Kind::kOptimizer, "bf16_zero_pp_rank_%4d_mp_rank_%4d_optim_states.pt%n"},
  };
  const auto whole = static_cast<int>(name.size());
  int a = -1;
  int b = -1;
  for (const auto& [kind, pattern] : kPatterns) {
    int end = 0;
    if (std::sscanf(name.c_str(), pattern, &a, &b, &end) == 2 && end == whole && a >= 0 && b >= 0) {
      return FileName{kind, a, b};
    }
  }
  int end = 0;
  if (std::sscanf(name.c_str(), "mp_rank_%4d_model_states.pt%n", &b, &end) == 1 && end == whole &&
      b >= 0) {
    return FileName{Kind::kStates, 0, b};
  }
  return std::nullopt;
}

struct ListedFile {
  FileName name;
  std::string path;
  auto Key() const { return std::tuple(name.rank, name.kind, name.first); }
};

std::vector<ListedFile> ListFiles(const std::string& folder) {
  std::vector<ListedFile> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (const auto name = ParseFileName(entry.path().filename())) {
      files.push_back({*name, entry.path()});
    }
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.Key() < b.Key(); });
  for (size_t i = 1; i < files.size(); ++i) {
    if (files[i - 1].Key() == files[i].Key()) {
      throw BadData(files[i].path, -1, fmt::format("is the same part as {}", files[i - 1].path),
                    "keep the files of one checkpoint only");
    }
  }
  return files;
}

// Takes the tensors of a dict whose names get `prefix`; buffers are left out.
void AddWeights(const TorchFile& file, const PickleDict& dict, const std::string& prefix,
                std::map<std::string, TensorInFile>* weights) {
  for (const auto& [key, value] : dict.items) {
    const auto* name = std::get_if<std::string_view>(&key);
    if (name != nullptr && IsHfBuffer(*name)) continue;
    const auto* tensor = PointerTo<TorchTensor>(value);
    if (name == nullptr || tensor == nullptr) {
      throw BadData(file.path(), -1,
                    fmt::format("the entry '{}' is {}, not a tensor", name == nullptr ? "?" : *name,
                                Describe(value)));
    }
    (*weights)[prefix + std::string(*name)] = {&file, tensor};
  }
}

// Without pipeline stages the module lies in mp_rank, as "sequential.2.attention...".
void AddModule(const TorchFile& states, std::map<std::string, TensorInFile>* weights) {
  constexpr std::string_view kPrefix = "sequential.";
  const PickleValue* value = FindKey(states.RootDict(), "module");
  const auto* module = value == nullptr ? nullptr : PointerTo<PickleDict>(*value);
  if (module == nullptr) return;
  std::map<std::string, TensorInFile> found;
  AddWeights(states, *module, "", &found);
  for (const auto& [name, tensor] : found) {
    if (!name.starts_with(kPrefix)) {
      throw BadData(states.path(), -1, fmt::format("the module holds '{}'", name),
                    "expected names of GPT-NeoX's sequential model");
    }
    (*weights)[name.substr(kPrefix.size())] = tensor;
  }
}

void AddFile(const ListedFile& listed, NeoxRankFiles* rank) {
  auto file = std::make_unique<TorchFile>(listed.path, PickleMode::kDeepSpeed);
  file->RootDict();
  switch (listed.name.kind) {
    case FileName::Kind::kLayer:
      AddWeights(*file, file->RootDict(), std::to_string(listed.name.first) + ".", &rank->weights);
      rank->layers.push_back(std::move(file));
      return;
    case FileName::Kind::kStates:
      AddModule(*file, &rank->weights);
      rank->states = std::move(file);
      return;
    case FileName::Kind::kOptimizer:
      if (listed.name.first != static_cast<int>(rank->optimizers.size())) {
        throw BadData(
            listed.path, -1,
            fmt::format("the optimizer file of data rank {} is missing", rank->optimizers.size()),
            "every rank's file is needed");
      }
      rank->optimizers.push_back(std::move(file));
  }
}

// What is true of one rank holds for all.
void CheckRanksAgree(const std::string& folder, const std::vector<NeoxRankFiles>& ranks) {
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto refuse = [&](const char* what) {
      throw BadData(folder, -1, fmt::format("tensor-parallel rank {} has {} rank 0", r, what),
                    "a file is missing or of another checkpoint");
    };
    if (ranks[r].layers.size() != ranks[0].layers.size()) refuse("other layer files than");
    if (ranks[r].optimizers.size() != ranks[0].optimizers.size()) {
      refuse("as many optimizer files not as");
    }
    if ((ranks[r].states == nullptr) != (ranks[0].states == nullptr)) {
      refuse("no mp_rank file, unlike");
    }
  }
}

}  // namespace

std::vector<NeoxRankFiles> OpenNeoxFiles(const std::string& folder) {
  const std::vector<ListedFile> files = ListFiles(folder);
  std::set<int> present;
  for (const ListedFile& file : files) present.insert(file.name.rank);
  const int count = present.empty() ? 0 : *present.rbegin() + 1;
  if (count == 0 || count > kMaxRanks) throw BadData(folder, -1, "no GPT-NeoX checkpoint is here");
  if (static_cast<int>(present.size()) != count) {
    throw BadData(
        folder, -1,
        fmt::format("files of {} of {} tensor-parallel ranks are here", present.size(), count),
        "fetch the missing ones");
  }
  std::vector<NeoxRankFiles> ranks(static_cast<size_t>(count));
  for (const ListedFile& file : files) AddFile(file, &ranks[static_cast<size_t>(file.name.rank)]);
  CheckRanksAgree(folder, ranks);
  return ranks;
}

std::optional<std::string> FindNeoxFolder(const std::string& path) {
  const auto holds_files = [](const std::string& folder) {
    const auto begin = std::filesystem::directory_iterator(folder);
    return std::any_of(begin, std::filesystem::directory_iterator(), [](const auto& entry) {
      return ParseFileName(entry.path().filename()).has_value();
    });
  };
  if (holds_files(path)) return path;
  const std::string latest = path + "/latest";
  if (!FileExists(latest)) return std::nullopt;
  std::string name = ReadFile(latest, 4096);
  while (!name.empty() && std::isspace(static_cast<unsigned char>(name.back())) != 0) {
    name.pop_back();
  }
  const std::string folder = path + "/" + name;
  if (!IsPlainFileName(name) || !std::filesystem::is_directory(folder) || !holds_files(folder)) {
    throw BadData(latest, -1, "does not name a checkpoint beside it",
                  "give the global_step directory itself");
  }
  return folder;
}

}  // namespace sepia::checkpoint
