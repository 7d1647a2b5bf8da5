// Samples of T + 1 tokens, in the order in which a run consumes them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "data/indexed_dataset.h"

namespace sepia::config {
class DataConfig;
}

namespace sepia::data {

// Immutable and thread-safe. The order depends on files, sequence length, seed and the number of
// samples asked for; never on ranks, micro-batches or accumulation.
class Dataset {
 public:
  virtual ~Dataset() = default;

  // T; a sample has T + 1 tokens: input tokens [0, T), targets [1, T + 1).
  virtual int64_t seq_length() const = 0;
  // Samples before the order repeats itself, as GPT-NeoX counts them (see NeoxDataset).
  virtual int64_t length() const = 0;
  // Samples that one pass over the data gives to a run with this global batch; the loader starts
  // over after them. At least 1.
  virtual int64_t SamplesPerPass(int64_t global_batch) const = 0;
  // Sample k of the order, k >= 0; every k has an answer. tokens: [T + 1].
  virtual void Sample(int64_t k, std::span<int32_t> tokens) const = 0;
  // Where token `position` of sample k comes from.
  virtual TokenPlace Place(int64_t k, int64_t position) const = 0;
  // What must be the same for a resumed run to see the same data: digest of the files (see
  // data/dataset_digest.h) and of everything that the order depends on. 64 hexadecimal digits.
  virtual std::string Fingerprint() const = 0;
  // One line for the log.
  virtual std::string Describe() const = 0;
};

struct DatasetOptions {
  // Samples that the run will consume from each: they decide the number of epochs of the shuffle.
  // 0 = not needed.
  int64_t train_samples = 0;
  int64_t valid_samples = 0;
  int64_t test_samples = 0;
  int64_t seq_length = 0;  // T; 0 = the config's
  int64_t seed = 1234;     // the run's; the config's own seed wins
  // Index maps go here when the folder of the dataset is read-only and the config names no
  // cache_dir. Empty: a private temporary folder.
  std::string fallback_cache_dir = {};
};

// Null where nothing is asked for or a split has no documents.
struct Datasets {
  std::shared_ptr<const Dataset> train;
  std::shared_ptr<const Dataset> valid;
  std::shared_ptr<const Dataset> test;
};

// Opens everything that `config` names and builds or maps the index maps. Safe to call from many
// processes at once. Throws UserError for contradictory settings, kBadData for damaged files.
Datasets BuildDatasets(const config::DataConfig& config, const DatasetOptions& options);

}  // namespace sepia::data
