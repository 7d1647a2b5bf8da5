#include "data/dataset_digest.h"

#include <algorithm>
#include <array>

#include "base/sha256.h"

namespace sepia::data {
namespace {

constexpr size_t kIdxBytes = size_t{1} << 20;
constexpr int64_t kBlocks = 64;
constexpr int64_t kBlockBytes = 4096;

void UpdateWithBin(Sha256& digest, const IndexedDataset& dataset) {
  std::array<std::byte, kBlockBytes> block;
  const int64_t total = dataset.bin_bytes();
  const int64_t bytes = std::min(total, kBlockBytes);
  const int64_t last = total - bytes;
  int64_t previous = -1;
  for (int64_t i = 0; i < kBlocks; ++i) {
    // Not last * i / 63, which could overflow.
    const int64_t offset = last / (kBlocks - 1) * i + last % (kBlocks - 1) * i / (kBlocks - 1);
    if (offset == previous) continue;
    previous = offset;
    const std::span<std::byte> here(block.data(), static_cast<size_t>(bytes));
    dataset.ReadBytes(offset, here);
    digest.Update(here);
  }
}

}  // namespace

std::string DatasetDigest(const IndexedDataset& dataset) {
  Sha256 digest;
  digest.Update(fmt::format("sepia dataset 1\n{} {} {} {}\n", DTypeName(dataset.dtype()),
                            dataset.num_sequences(), dataset.num_document_entries(),
                            dataset.num_tokens()));
  const std::span<const std::byte> idx = dataset.idx_bytes();
  digest.Update(idx.first(std::min(idx.size(), kIdxBytes)));
  digest.Update(idx.last(std::min(idx.size(), kIdxBytes)));
  UpdateWithBin(digest, dataset);
  return digest.FinishHex();
}

}  // namespace sepia::data
