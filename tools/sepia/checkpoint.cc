// sepia checkpoint inspect|verify|diff: what a model holds, whether it is whole, what differs.
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/comparison.h"
#include "checkpoint/model_source.h"
#include "checkpoint/reader.h"
#include "checkpoint/sepia_source.h"
#include "checkpoint/step_directories.h"
#include "tools/sepia/command.h"

namespace sepia::tools {
namespace {

using checkpoint::ModelSource;
using checkpoint::Role;
using Json = nlohmann::ordered_json;

struct CheckpointOptions {
  std::string source;
  std::string other;
  bool json = false;
  bool deep = false;
};

constexpr Role kRoles[] = {Role::kMaster, Role::kExpAvg, Role::kExpAvgSq};
// A GPT-NeoX checkpoint has half-precision weights beside the masters.
constexpr Role kStoredRoles[] = {Role::kWeight, Role::kMaster, Role::kExpAvg, Role::kExpAvgSq};

Json TrainStateJson(const checkpoint::TrainState& state) {
  return {{"step", state.step},
          {"applied_steps", state.applied_steps},
          {"skipped_steps", state.skipped_steps},
          {"consumed_samples", state.consumed_samples},
          {"consumed_tokens", state.consumed_tokens},
          {"last_loss", state.last_loss},
          {"seed", state.seed},
          {"loss_scale", state.loss_scaler.scale},
          {"data_order", state.data.order},
          {"data_fingerprint", state.data.fingerprint},
          {"next_sample", state.data.next_sample}};
}

void PrintHeader(const ModelSource& source, bool json) {
  const checkpoint::TrainState* state = source.train_state();
  if (json) {
    Json object = {{"path", source.path()}, {"format", source.format()}};
    if (state != nullptr) object["train_state"] = TrainStateJson(*state);
    fmt::print("{}\n", object.dump());
    return;
  }
  fmt::print("{} {}\n", source.format(), source.path());
  if (state == nullptr) {
    fmt::print("weights only, no training state\n");
  } else {
    const Json fields = TrainStateJson(*state);
    for (const auto& [key, value] : fields.items()) {
      fmt::print("  {:<18}{}\n", key, value.dump());
    }
  }
  fmt::print("{:<62} {:<10} {:<16} {:<5} {:>12} {:>12} {:>12} {:>6} {:>6}\n", "tensor", "role",
             "shape", "dtype", "min", "max", "rms", "NaN", "Inf");
}

void InspectTensor(const ModelSource& source, const checkpoint::SourceTensor& tensor, Role role,
                   bool json) {
  const checkpoint::TensorStatistics numbers = ComputeStatistics(source, tensor, role);
  if (!json) {
    fmt::print("{:<62} {:<10} {:<16} {:<5} {:>12.5g} {:>12.5g} {:>12.5g} {:>6} {:>6}\n",
               tensor.name, RoleName(role), tensor.shape.ToString(), DTypeName(tensor.dtype),
               numbers.min, numbers.max, numbers.rms, numbers.nans, numbers.infinities);
    return;
  }
  const auto dims = tensor.shape.dims();
  fmt::print("{}\n", Json{{"name", tensor.name},
                          {"role", RoleName(role)},
                          {"shape", std::vector<int64_t>(dims.begin(), dims.end())},
                          {"dtype", DTypeName(tensor.dtype)},
                          {"min", numbers.min},
                          {"max", numbers.max},
                          {"rms", numbers.rms},
                          {"nan", numbers.nans},
                          {"inf", numbers.infinities}}
                         .dump());
}

void RunInspect(const CheckpointOptions& options) {
  const auto source = checkpoint::OpenModelSource(options.source);
  PrintHeader(*source, options.json);
  for (const checkpoint::SourceTensor& tensor : source->tensors()) {
    for (const Role role : kRoles) {
      if (source->Has(role)) InspectTensor(*source, tensor, role, options.json);
    }
  }
}

struct Verdict {
  std::string path;
  std::vector<std::string> faults;
};

// Opening a source checks its structure; `deep` reads every byte as well.
Verdict VerifyOne(const std::string& path, bool deep) {
  Verdict verdict{path, {}};
  try {
    const auto source = checkpoint::OpenModelSource(path);
    if (!deep) return verdict;
    if (const auto step = checkpoint::FindStepDirectory(path)) {
      verdict.faults = checkpoint::CheckpointReader(*step).VerifyDeep();
      return verdict;
    }
    for (const Role role : kStoredRoles) {
      if (!source->Has(role)) continue;
      for (const checkpoint::SourceTensor& tensor : source->tensors()) {
        ComputeStatistics(*source, tensor, role);
      }
    }
  } catch (const UserError& error) {
    verdict.faults.push_back(error.what());
  }
  return verdict;
}

void RunVerify(const CheckpointOptions& options) {
  std::vector<std::string> paths = {options.source};
  if (const auto root = checkpoint::FindCheckpointRoot(options.source)) {
    paths.clear();
    for (const checkpoint::Candidate& candidate : checkpoint::FindCheckpoints(*root)) {
      paths.push_back(candidate.path);
    }
    if (paths.empty()) throw BadData(*root, -1, "holds no checkpoint");
  }
  int damaged = 0;
  for (const std::string& path : paths) {
    const Verdict verdict = VerifyOne(path, options.deep);
    damaged += verdict.faults.empty() ? 0 : 1;
    if (options.json) {
      fmt::print("{}\n", Json{{"path", path},
                              {"deep", options.deep},
                              {"ok", verdict.faults.empty()},
                              {"faults", verdict.faults}}
                             .dump());
      continue;
    }
    fmt::print("{} {}\n", verdict.faults.empty() ? "ok     " : "DAMAGED", path);
    for (const std::string& fault : verdict.faults) fmt::print("  {}\n", fault);
  }
  if (damaged > 0) {
    throw UserError(ExitCode::kBadData, fmt::format("{} of {} damaged", damaged, paths.size()));
  }
}

void PrintDifference(const checkpoint::TensorDifference& difference, bool json) {
  const checkpoint::Difference& values = difference.values;
  const bool has_nan = values.max_ulp == std::numeric_limits<int64_t>::max();
  if (json) {
    Json object = {{"name", difference.name}, {"role", RoleName(difference.role)}};
    if (!difference.reason.empty()) {
      object["reason"] = difference.reason;
    } else {
      object["elements"] = values.elements;
      object["max_ulp"] = has_nan ? Json() : Json(values.max_ulp);
      object["max_abs"] = values.max_absolute;
    }
    fmt::print("{}\n", object.dump());
  } else if (!difference.reason.empty()) {
    fmt::print("{}: {}\n", difference.name, difference.reason);
  } else {
    fmt::print("{} {}: {} elements differ, by at most {} ulp, {:.3g} absolute\n", difference.name,
               RoleName(difference.role), values.elements,
               has_nan ? "NaN" : std::to_string(values.max_ulp), values.max_absolute);
  }
}

void RunDiff(const CheckpointOptions& options) {
  const auto a = checkpoint::OpenModelSource(options.source);
  const auto b = checkpoint::OpenModelSource(options.other);
  const auto differences = checkpoint::CompareSources(*a, *b);
  for (const auto& difference : differences) PrintDifference(difference, options.json);
  const bool states_differ = a->train_state() != nullptr && b->train_state() != nullptr &&
                             !(*a->train_state() == *b->train_state());
  if (states_differ) {
    const std::string state_a = TrainStateJson(*a->train_state()).dump();
    const std::string state_b = TrainStateJson(*b->train_state()).dump();
    fmt::print("{}\n", options.json ? Json{{"train_state", {state_a, state_b}}}.dump()
                                    : "training state:\n  A " + state_a + "\n  B " + state_b);
  }
  if (differences.empty() && !states_differ) {
    if (!options.json) fmt::print("equal, bit for bit: {} tensors\n", a->tensors().size());
    return;
  }
  throw UserError(ExitCode::kBadData,
                  fmt::format("{} and {} differ in {} tensors{}", a->path(), b->path(),
                              differences.size(), states_differ ? " and the training state" : ""));
}

}  // namespace

void AddCheckpointCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("checkpoint", "look at, verify or compare models");
  command->require_subcommand(1);
  command->footer("Example:\n  sepia checkpoint verify runs/my-run --deep");
  auto options = std::make_shared<CheckpointOptions>();
  const auto add_source = [&](CLI::App* sub) {
    sub->add_option(
           "source", options->source,
           "Sepia checkpoint, directory of checkpoints or run directory, Hugging Face folder, "
           "GPT-NeoX checkpoint, or GGUF file")
        ->required();
    sub->add_flag("--json", options->json, "one JSON object a line");
  };

  CLI::App* inspect = command->add_subcommand("inspect", "every tensor with its statistics");
  add_source(inspect);
  inspect->footer("Example:\n  sepia checkpoint inspect runs/my-run");
  inspect->final_callback([options] { RunInspect(*options); });

  CLI::App* verify = command->add_subcommand("verify", "check structure, sizes and seals");
  add_source(verify);
  verify->add_flag("--deep", options->deep, "read everything: checksums of all tensors");
  verify->footer(
      "A directory of checkpoints is verified step by step. Exit code: 0 whole, 65 damaged.\n"
      "Example:\n  sepia checkpoint verify runs/my-run --deep");
  verify->final_callback([options] { RunVerify(*options); });

  CLI::App* diff = command->add_subcommand("diff", "compare two models bit for bit");
  add_source(diff);
  diff->add_option("other", options->other, "the second model")->required();
  diff->footer(
      "Moments are compared where both have them. Ulps are those of fp32.\n"
      "Exit code: 0 equal, 65 different or unreadable.\n"
      "Example:\n  sepia checkpoint diff runs/a runs/b");
  diff->final_callback([options] { RunDiff(*options); });
}

}  // namespace sepia::tools
