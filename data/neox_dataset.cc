#include "data/neox_dataset.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/sha256.h"
#include "data/dataset_digest.h"

namespace sepia::data {

NeoxDataset::NeoxDataset(std::shared_ptr<const IndexedDataset> dataset,
                         std::shared_ptr<const IndexMaps> maps)
    : dataset_(std::move(dataset)), maps_(std::move(maps)) {}

int64_t NeoxDataset::SamplesPerPass(int64_t global_batch) const {
  const int64_t samples = maps_->num_samples();
  return samples < global_batch ? samples : samples / global_batch * global_batch;
}

template <typename Visit>
void NeoxDataset::ForEachPiece(int64_t k, const Visit& visit) const {
  CHECK_GE(k, 0);
  const int64_t samples = maps_->num_samples();
  if (k >= samples) k = samples == 1 ? 0 : k % (samples - 1);
  const int64_t sample = maps_->shuffled(k);
  const SampleStart start = maps_->start(sample);
  const SampleStart next = maps_->start(sample + 1);

  int64_t position = start.position;
  int64_t offset = start.offset;
  int64_t remaining = seq_length() + 1;
  const auto refuse = [&] {
    const NpyFile& file = maps_->sample_file();
    throw BadData(file.path(), file.ByteOffset(2 * sample),
                  fmt::format("sample {} does not hold {} tokens of these documents", sample,
                              seq_length() + 1),
                  "the file is damaged or belongs to another dataset: move it away");
  };
  while (true) {
    if (position >= maps_->num_positions()) refuse();
    const int32_t sequence = maps_->document(position);
    const int64_t available = dataset_->size(sequence) - offset;
    if (available < 0) refuse();
    const int64_t count = std::min(available, remaining);
    if (count > 0) visit(sequence, offset, count);
    remaining -= count;
    offset += count;
    if (remaining == 0) break;
    ++position;
    offset = 0;
  }
  // The last token is the first of the next sample.
  if (position != next.position || offset - 1 != next.offset) refuse();
}

void NeoxDataset::Sample(int64_t k, std::span<int32_t> tokens) const {
  CHECK_EQ(static_cast<int64_t>(tokens.size()), seq_length() + 1);
  ForEachPiece(k, [&](int64_t sequence, int64_t offset, int64_t count) {
    dataset_->Read(sequence, offset, tokens.first(static_cast<size_t>(count)));
    tokens = tokens.subspan(static_cast<size_t>(count));
  });
}

TokenPlace NeoxDataset::Place(int64_t k, int64_t position) const {
  CHECK(position >= 0 && position <= seq_length(), "token {} of a sample", position);
  TokenPlace place;
  ForEachPiece(k, [&](int64_t sequence, int64_t offset, int64_t count) {
    if (position >= 0 && position < count) place = dataset_->Place(sequence, offset + position);
    position -= count;
  });
  return place;
}

std::string NeoxDataset::Fingerprint() const {
  const IndexMapSpec& spec = maps_->spec();
  Sha256 digest;
  digest.Update(fmt::format("neox maps 1\n{}\ndocuments {} {} T {} seed {} epochs {}\n",
                            DatasetDigest(*dataset_), spec.first_document, spec.end_document,
                            spec.seq_length, spec.seed, maps_->plan().num_epochs));
  // Published maps need not be the ones that the seed would give.
  constexpr size_t kBytes = 65536;
  for (const NpyFile* file : {&maps_->doc_file(), &maps_->shuffle_file()}) {
    const std::span<const std::byte> data = file->data_bytes();
    digest.Update(data.first(std::min(data.size(), kBytes)));
    digest.Update(data.last(std::min(data.size(), kBytes)));
  }
  return digest.FinishHex();
}

std::string NeoxDataset::Describe() const {
  const IndexMapSpec& spec = maps_->spec();
  return fmt::format(
      "{}: documents [{}, {}), {} tokens, {} samples of {} + 1 in {} shuffled epochs",
      dataset_->prefix(), spec.first_document, spec.end_document, maps_->plan().tokens_per_epoch,
      maps_->num_samples(), spec.seq_length, maps_->plan().num_epochs);
}

}  // namespace sepia::data
