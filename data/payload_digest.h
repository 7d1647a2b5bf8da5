// A recorded digest of a dataset's every byte, kept as `prefix`.sha256.json: reveals damage that
// the format itself cannot, such as a flipped bit in a token.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/health.h"
#include "data/indexed_dataset.h"

namespace sepia::data {

struct PayloadDigest {
  int64_t idx_bytes = 0;
  std::string idx_sha256;
  int64_t bin_bytes = 0;  // shards as joined
  std::string bin_sha256;
  // CRC-32C of each block of the .bin, to say where the damage is.
  int64_t block_bytes = 0;
  std::vector<uint32_t> block_crc32c;
};

std::string PayloadDigestPath(const std::string& prefix);

PayloadDigest ComputePayloadDigest(const IndexedDataset& dataset, const Progress& progress);

// Atomic. Throws kCannotWrite.
void WritePayloadDigest(const std::string& path, const PayloadDigest& digest);

// Throws kBadData for a file that is not what WritePayloadDigest writes.
PayloadDigest ReadPayloadDigest(const std::string& path);

// Throws kBadData, with the file and the offset of the first damaged block, if the dataset differs
// from what was recorded.
void CheckPayloadDigest(const IndexedDataset& dataset, const PayloadDigest& recorded,
                        const PayloadDigest& computed);

}  // namespace sepia::data
