#include "data/payload_digest.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"

namespace sepia::data {
namespace {

constexpr int64_t kSmallestBlock = int64_t{1} << 16;
constexpr int64_t kMostBlocks = 4096;
constexpr const char* kFormat = "sepia dataset digest 1";

int64_t BlockBytes(int64_t bin_bytes) {
  int64_t block = kSmallestBlock;
  while (bin_bytes / block >= kMostBlocks) block *= 2;
  return block;
}

}  // namespace

std::string PayloadDigestPath(const std::string& prefix) { return prefix + ".sha256.json"; }

PayloadDigest ComputePayloadDigest(const IndexedDataset& dataset, const Progress& progress) {
  PayloadDigest digest{.idx_bytes = static_cast<int64_t>(dataset.idx_bytes().size()),
                       .idx_sha256 = Sha256Hex(dataset.idx_bytes()),
                       .bin_bytes = dataset.bin_bytes(),
                       .bin_sha256 = {},
                       .block_bytes = BlockBytes(dataset.bin_bytes()),
                       .block_crc32c = {}};
  Sha256 whole;
  std::vector<std::byte> piece;
  for (int64_t at = 0; at < digest.bin_bytes; at += kSmallestBlock) {
    piece.resize(static_cast<size_t>(std::min(kSmallestBlock, digest.bin_bytes - at)));
    dataset.ReadBytes(at, piece);
    whole.Update(piece);
    if (at % digest.block_bytes == 0) digest.block_crc32c.push_back(0);
    digest.block_crc32c.back() = Crc32c(piece, digest.block_crc32c.back());
    progress(at + static_cast<int64_t>(piece.size()));
  }
  digest.bin_sha256 = whole.FinishHex();
  return digest;
}

void WritePayloadDigest(const std::string& path, const PayloadDigest& digest) {
  const nlohmann::ordered_json json = {
      {"format", kFormat},
      {"idx", {{"bytes", digest.idx_bytes}, {"sha256", digest.idx_sha256}}},
      {"bin",
       {{"bytes", digest.bin_bytes},
        {"sha256", digest.bin_sha256},
        {"block_bytes", digest.block_bytes},
        {"block_crc32c", digest.block_crc32c}}}};
  WriteFileAtomic(path, json.dump(1) + "\n");
}

PayloadDigest ReadPayloadDigest(const std::string& path) {
  constexpr int64_t kMaxBytes = int64_t{1} << 20;
  const std::string text = ReadFile(path, kMaxBytes);
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    if (json.at("format") != kFormat) throw BadData(path, -1, "not a digest of a dataset");
    const nlohmann::json& bin = json.at("bin");
    return {.idx_bytes = json.at("idx").at("bytes").get<int64_t>(),
            .idx_sha256 = json.at("idx").at("sha256").get<std::string>(),
            .bin_bytes = bin.at("bytes").get<int64_t>(),
            .bin_sha256 = bin.at("sha256").get<std::string>(),
            .block_bytes = bin.at("block_bytes").get<int64_t>(),
            .block_crc32c = bin.at("block_crc32c").get<std::vector<uint32_t>>()};
  } catch (const nlohmann::json::exception& error) {
    throw BadData(path, -1, error.what(), "it is damaged: write it again with --write-digest");
  }
}

void CheckPayloadDigest(const IndexedDataset& dataset, const PayloadDigest& recorded,
                        const PayloadDigest& computed) {
  const std::string source = PayloadDigestPath(dataset.prefix());
  if (recorded.idx_bytes != computed.idx_bytes || recorded.idx_sha256 != computed.idx_sha256) {
    throw BadData(dataset.idx_path(), -1, "differs from the digest in " + source,
                  "fetch the file again, or record the new one with --write-digest");
  }
  if (recorded.bin_bytes != computed.bin_bytes) {
    throw BadData(
        dataset.bin_path(), -1,
        fmt::format("{} bytes, but {} records {}", computed.bin_bytes, source, recorded.bin_bytes),
        "fetch the file again, or record the new one with --write-digest");
  }
  if (recorded.bin_sha256 == computed.bin_sha256) return;
  const auto [block, unused] =
      std::mismatch(computed.block_crc32c.begin(), computed.block_crc32c.end(),
                    recorded.block_crc32c.begin(), recorded.block_crc32c.end());
  const bool located =
      recorded.block_bytes == computed.block_bytes && block != computed.block_crc32c.end();
  if (!located) throw BadData(dataset.bin_path(), -1, "differs from the digest in " + source);
  const int64_t offset = (block - computed.block_crc32c.begin()) * computed.block_bytes;
  const TokenPlace place = dataset.StreamPlace(offset / DTypeSize(dataset.dtype()));
  throw BadData(place.file, place.byte_offset,
                fmt::format("a byte in the {} KiB from here on differs from the digest in {}",
                            computed.block_bytes / 1024, source),
                "fetch the file again");
}

}  // namespace sepia::data
