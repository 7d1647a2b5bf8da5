// Samples in the order of GPT-NeoX v1.0's index maps (GPT2Dataset).
#pragma once

#include <memory>
#include <string>

#include "data/dataset.h"
#include "data/index_maps.h"

namespace sepia::data {

// N samples exist, but length() is N - 1, as upstream's off-by-one has it (neox#972). Sample N - 1
// is real; from N on, k is taken modulo N - 1.
class NeoxDataset : public Dataset {
 public:
  NeoxDataset(std::shared_ptr<const IndexedDataset> dataset, std::shared_ptr<const IndexMaps> maps);

  int64_t seq_length() const override { return maps_->spec().seq_length; }
  int64_t length() const override { return maps_->num_samples() - 1; }
  // The largest multiple of the global batch in the N real samples. GPT-NeoX starts over after the
  // largest multiple in N - 1, and so runs dry when N is itself a multiple.
  int64_t SamplesPerPass(int64_t global_batch) const override;
  // Throws kBadData where sample_idx contradicts the sizes of the documents.
  void Sample(int64_t k, std::span<int32_t> tokens) const override;
  TokenPlace Place(int64_t k, int64_t position) const override;
  std::string Fingerprint() const override;
  std::string Describe() const override;

 private:
  // Calls visit(sequence, offset, count) for the pieces of sample k.
  template <typename Visit>
  void ForEachPiece(int64_t k, const Visit& visit) const;

  std::shared_ptr<const IndexedDataset> dataset_;
  std::shared_ptr<const IndexMaps> maps_;
};

}  // namespace sepia::data
