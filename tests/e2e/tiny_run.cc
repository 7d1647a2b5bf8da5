#include "tests/e2e/tiny_run.h"

#include <fstream>
#include <sstream>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "base/buffer.h"
#include "base/file.h"
#include "base/philox.h"
#include "checkpoint/reader.h"
#include "checkpoint/step_directories.h"
#include "data/indexed_dataset.h"

namespace sepia::testing {
namespace {

constexpr int kLength = 32;
constexpr int kVocabulary = 128;

constexpr const char* kConfig = R"(
model {{
  vocab_size: {} hidden_size: 32 num_layers: 2 num_heads: 2 max_positions: {}
  attention {{ kind: SEP window: 6 num_initial: 2 separator_ids: [3, 5] full_layers: [0] }}
}}
data {{ train {{ prefix: "{}" }} valid {{ prefix: "{}" }} order: NEOX_MAPS sequence_length: {} }}
batch {{ global: 4 micro: 2 }}
optimizer {{ lr: 1e-2 min_lr: 1e-3 }}
schedule {{ warmup_steps: 2.5 decay_steps: 24 total_steps: 24 }}
checkpoint {{ every_steps: 5 keep_last: 0 }}
eval {{ every_steps: 6 steps: 2 }}
safety {{ zscore_window: 4 }}
logging {{ every_steps: 100 peak_gflops: 100 }}
threads: 2
)";

// A noisy cycle: something that a model can learn in a few steps.
void WriteDataset(const std::string& prefix, int64_t num_tokens) {
  const PhiloxStream random(7, "tiny run");
  data::IndexedDatasetWriter writer(prefix, DType::kUInt16);
  std::vector<int32_t> document;
  int32_t token = 1;
  for (int64_t i = 0; i < num_tokens; ++i) {
    token = random.Uniform(static_cast<uint64_t>(2 * i)) < 0.8F
                ? (token * 5 + 1) % kVocabulary
                : static_cast<int32_t>(random.Bits(static_cast<uint64_t>(2 * i + 1)) % kVocabulary);
    document.push_back(token);
    if (document.size() == 41 || i + 1 == num_tokens) {
      writer.AddDocument(document);
      document.clear();
    }
  }
  writer.Finish();
}

}  // namespace

TinyRun::TinyRun() {
  WriteDataset(dir_.File("data"), kLength * kSamplesPerEpoch + 1);
  std::ofstream(dir_.File("run.textproto")) << fmt::format(
      fmt::runtime(kConfig), kVocabulary, kLength, dir_.File("data"), dir_.File("data"), kLength);
}

std::vector<std::string> TinyRun::Train(const std::string& name,
                                        const std::vector<std::string>& more) const {
  std::vector<std::string> args = {"train", dir_.File("run.textproto"), "--run-dir", RunDir(name)};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

std::string TinyRun::Checkpoint(const std::string& name, int64_t step) const {
  return RunDir(name) + "/checkpoints/" + checkpoint::StepDirectoryName(step);
}

std::vector<std::string> EndlessOptions() {
  return {"--set", "schedule.total_steps=100000", "--set", "schedule.decay_steps=100000"};
}

std::vector<nlohmann::ordered_json> ReadMetrics(const std::string& path) {
  std::vector<nlohmann::ordered_json> steps;
  std::istringstream text(ReadFile(path));
  for (std::string line; std::getline(text, line);) {
    steps.push_back(nlohmann::ordered_json::parse(line));
  }
  return steps;
}

std::vector<std::string> ComparableMetrics(const std::string& path) {
  std::vector<std::string> lines;
  for (nlohmann::ordered_json object : ReadMetrics(path)) {
    for (const char* name : {"tokens_per_s", "step_ms", "data_ms", "comm_ms", "comm_hidden",
                             "rank_step_ms", "mfu", "rss_bytes"}) {
      object.erase(name);
    }
    lines.push_back(object.dump());
  }
  return lines;
}

int64_t CountSkipped(const std::string& metrics_path) {
  int64_t skipped = 0;
  for (const nlohmann::ordered_json& step : ReadMetrics(metrics_path)) {
    skipped += step["skip"].get<bool>();
  }
  return skipped;
}

std::vector<std::string> CompareCheckpoints(const std::string& a, const std::string& b) {
  const checkpoint::CheckpointReader first(a), second(b);
  std::vector<std::string> differences;
  if (first.train_state() == nullptr || second.train_state() == nullptr ||
      *first.train_state() != *second.train_state()) {
    differences.push_back("train state");
  }
  if (first.manifest().tensors.size() != second.manifest().tensors.size()) {
    differences.push_back("number of tensors");
  }
  for (const checkpoint::StoredTensor& tensor : first.manifest().tensors) {
    OwnedTensor x(tensor.dtype, tensor.shape), y(tensor.dtype, tensor.shape);
    first.ReadTensor(tensor.name, tensor.role, x);
    second.ReadTensor(tensor.name, tensor.role, y);
    if (std::memcmp(x.view().raw(), y.view().raw(), static_cast<size_t>(tensor.num_bytes())) != 0) {
      differences.push_back(std::string(checkpoint::RoleName(tensor.role)) + " " + tensor.name);
    }
  }
  return differences;
}

}  // namespace sepia::testing
