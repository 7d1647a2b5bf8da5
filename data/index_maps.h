// The three index maps of GPT-NeoX v1.0 (megatron/data/gpt2_dataset.py, helpers.cpp): which tokens
// form sample k. docs/formats/indexed_dataset.md describes the rules and their quirks.
//
//   doc_idx     [E * documents]  the documents of E epochs, shuffled together
//   sample_idx  [N + 1, 2]       (position in doc_idx, offset) where each sample starts
//   shuffle_idx [N]              the order of the samples
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/indexed_dataset.h"
#include "data/neox_random.h"
#include "data/npy.h"

namespace sepia::data {

struct IndexMapSpec {
  int64_t first_document = 0;  // the range [first, end) of sequences that is shuffled
  int64_t end_document = 0;
  int64_t num_samples = 0;  // asked for; decides the number of epochs
  int64_t seq_length = 0;   // T
  uint32_t seed = 0;
};

// What follows from a spec and the sizes of its documents.
struct IndexMapPlan {
  int64_t tokens_per_epoch = 0;
  int64_t num_epochs = 0;   // E
  int64_t num_samples = 0;  // N; GPT-NeoX reports one less as the dataset's length
};

// Throws UserError when the documents hold no tokens, too few for one sample, or need more than
// 2^31 - 1 entries in doc_idx. `what` names the dataset in messages.
IndexMapPlan PlanIndexMaps(const SequenceSizes& sizes, const IndexMapSpec& spec,
                           const std::string& what);

struct SampleStart {
  int32_t position = 0;  // in doc_idx
  int32_t offset = 0;    // token in that document

  friend bool operator==(const SampleStart&, const SampleStart&) = default;
};

// The pieces, each linear in its output and without further memory. `random` is shared: first the
// documents are shuffled, then the samples.
std::vector<int32_t> BuildDocIndex(const IndexMapSpec& spec, const IndexMapPlan& plan,
                                   NeoxRandom& random);
// Calls `emit` N + 1 times.
void BuildSampleIndex(const SequenceSizes& sizes, const std::vector<int32_t>& doc_index,
                      const IndexMapSpec& spec, const IndexMapPlan& plan,
                      const std::function<void(SampleStart)>& emit);
// T: uint32_t, or int64_t when ShuffleIndexIsWide.
template <typename T>
std::vector<T> BuildShuffleIndex(const IndexMapPlan& plan, NeoxRandom& random);
bool ShuffleIndexIsWide(const IndexMapPlan& plan);

// Paths of the three files.
struct IndexMapPaths {
  std::string doc;
  std::string sample;
  std::string shuffle;
};

// Builds all three and writes them, each under a temporary name first. Bytes as numpy.save's.
void WriteIndexMaps(const SequenceSizes& sizes, const IndexMapSpec& spec, const IndexMapPlan& plan,
                    const IndexMapPaths& paths);

// The three files, mapped: our own or published ones. Thread-safe.
class IndexMaps {
 public:
  // Throws kBadData unless types and shapes fit the plan, every value is in bounds, doc_idx holds
  // each document E times, sample starts rise, and shuffle_idx is a permutation.
  IndexMaps(const IndexMapPaths& paths, const IndexMapSpec& spec, const IndexMapPlan& plan);

  int64_t num_samples() const { return plan_.num_samples; }
  const IndexMapPlan& plan() const { return plan_; }
  const IndexMapSpec& spec() const { return spec_; }

  int64_t num_positions() const { return doc_.num_elements(); }
  int32_t document(int64_t position) const { return doc_.At<int32_t>(position); }
  SampleStart start(int64_t sample) const {
    return {sample_.At<int32_t>(2 * sample), sample_.At<int32_t>(2 * sample + 1)};
  }
  int64_t shuffled(int64_t k) const {
    return wide_ ? shuffle_.At<int64_t>(k) : shuffle_.At<uint32_t>(k);
  }
  const NpyFile& doc_file() const { return doc_; }
  const NpyFile& sample_file() const { return sample_; }
  const NpyFile& shuffle_file() const { return shuffle_; }

 private:
  void CheckDocuments() const;
  void CheckSamples() const;
  void CheckShuffle() const;

  IndexMapSpec spec_;
  IndexMapPlan plan_;
  NpyFile doc_;
  NpyFile sample_;
  NpyFile shuffle_;
  bool wide_;
};

}  // namespace sepia::data
