// sepia data verify: a full health report of a dataset.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "data/dataset_digest.h"
#include "data/entropy.h"
#include "data/health.h"
#include "data/payload_digest.h"
#include "tools/sepia/corpus_options.h"
#include "tools/sepia/data_commands.h"

namespace sepia::tools {
namespace {

struct VerifyOptions {
  std::string prefix;
  data::HealthOptions health;
  bool write_digest = false;
  bool entropy = false;
  bool json = false;
};

// Enough for a stable figure; 256 MiB of memory.
constexpr int64_t kMaxEntropyTokens = int64_t{1} << 25;

double Share(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

nlohmann::ordered_json LengthCounts(const data::DatasetHealth& health) {
  nlohmann::ordered_json counts = nlohmann::ordered_json::object();
  for (size_t b = 0; b < health.length_counts.size(); ++b) {
    if (health.length_counts[b] == 0) continue;
    const int64_t low = int64_t{1} << b;
    counts[fmt::format("{}-{}", low, 2 * low - 1)] = health.length_counts[b];
  }
  return counts;
}

nlohmann::ordered_json Report(const data::IndexedDataset& dataset,
                              const data::DatasetHealth& health, const std::string& payload) {
  return {{"prefix", dataset.prefix()},
          {"dtype", DTypeName(dataset.dtype())},
          {"sequences", dataset.num_sequences()},
          {"document_entries", dataset.num_document_entries()},
          {"tokens", dataset.num_tokens()},
          {"bin_bytes", dataset.bin_bytes()},
          {"min_id", health.min_id},
          {"max_id", health.max_id},
          {"eod_tokens", health.eod_tokens},
          {"sequences_ending_with_eod", health.sequences_ending_with_eod},
          {"separator_tokens", health.separator_tokens},
          {"separator_density", Share(health.separator_tokens, dataset.num_tokens())},
          {"empty_sequences", health.empty_sequences},
          {"shortest", health.shortest},
          {"longest", health.longest},
          {"mean_length", health.mean_length},
          {"length_counts", LengthCounts(health)},
          {"digest", data::DatasetDigest(dataset)},
          {"payload", payload}};
}

void PrintForPeople(const nlohmann::ordered_json& report) {
  for (const auto& [key, value] : report.items()) {
    if (!value.is_object()) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      std::printf("%-26s %s\n", key.c_str(), text.c_str());
      continue;
    }
    std::printf("%s\n", key.c_str());
    for (const auto& [range, count] : value.items()) {
      std::printf("  %-24s %s\n", range.c_str(), count.dump().c_str());
    }
  }
}

void WarnAboutContent(const data::IndexedDataset& dataset, const data::DatasetHealth& health,
                      const data::HealthOptions& options) {
  if (health.eod_tokens == 0) {
    LogWarn("no end-of-document token (id {}): documents run into each other", options.eod_id);
  }
  if (health.separator_tokens == 0) {
    LogWarn("none of the {} separators occurs: give --separators for this tokenizer",
            options.separator_ids.size());
  }
  if (dataset.num_document_entries() == 1) {
    LogInfo("the document index is [0], as GPT-NeoX v1.0's merge leaves it; training ignores it");
  }
}

// "written", "matches ...", or why it was not looked at. Throws kBadData where it differs.
std::string HandlePayload(const VerifyOptions& options, const data::IndexedDataset& dataset) {
  const std::string path = data::PayloadDigestPath(options.prefix);
  const bool recorded = FileExists(path);
  if (!recorded && !options.write_digest) return "no recorded digest; --write-digest records one";
  ProgressLine line("digest", dataset.bin_bytes());
  const data::PayloadDigest computed =
      data::ComputePayloadDigest(dataset, [&line](int64_t bytes) { line.Show(bytes, bytes); });
  if (options.write_digest) {
    data::WritePayloadDigest(path, computed);
    return "written to " + path;
  }
  data::CheckPayloadDigest(dataset, data::ReadPayloadDigest(path), computed);
  return "matches " + path;
}

void RunVerify(const VerifyOptions& options) {
  const data::IndexedDataset dataset(options.prefix);
  const std::string payload = HandlePayload(options, dataset);
  data::DatasetHealth health;
  {
    ProgressLine line("verify", dataset.bin_bytes());
    health = data::ExamineDataset(dataset, options.health,
                                  [&line](int64_t bytes) { line.Show(bytes, bytes); });
  }
  WarnAboutContent(dataset, health, options.health);
  nlohmann::ordered_json report = Report(dataset, health, payload);
  if (options.entropy) {
    const data::TokenEntropies entropies = data::ComputeTokenEntropies(dataset, kMaxEntropyTokens);
    report["unigram_nats_per_token"] = entropies.unigram;
    report["bigram_nats_per_token"] = entropies.bigram;
  }
  if (options.json) {
    std::printf("%s\n", report.dump().c_str());
  } else {
    PrintForPeople(report);
  }
}

}  // namespace

void AddDataVerifyCommand(CLI::App& data) {
  auto options = std::make_shared<VerifyOptions>();
  // . , ? ! ; : space tab newline of the Pythia tokenizer.
  options->health.separator_ids = {15, 13, 32, 2, 28, 27, 209, 186, 187};
  CLI::App* command = data.add_subcommand("verify", "read a whole dataset and report on it");
  command->add_option("PREFIX", options->prefix, "path of the .bin/.idx pair without extension")
      ->required();
  command
      ->add_option("--separators", options->health.separator_ids,
                   "ids to count as separators (default: the Pythia tokenizer's)")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--eod", options->health.eod_id, "id of the end-of-document token")
      ->capture_default_str();
  command
      ->add_option("--vocab-size", options->health.vocab_size,
                   "refuse ids at or above it; 0 = not checked")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--write-digest", options->write_digest,
                    "record PREFIX.sha256.json, which later runs of verify compare with");
  command->add_flag("--entropy", options->entropy,
                    "also the entropies of tokens and of tokens given the one before, as a scale "
                    "for the loss (of the first 33.5 million tokens)");
  command->add_flag("--json", options->json, "one JSON object instead of a table");
  command->footer(
      "Ends with 65, naming file and offset, if the dataset is damaged.\n"
      "Example:\n  sepia data verify pile/train --write-digest");
  command->final_callback([options] { RunVerify(*options); });
}

}  // namespace sepia::tools
