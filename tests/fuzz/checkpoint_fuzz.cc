// A hostile checkpoint: the first bytes are the manifest's message, the rest its one shard; the
// first byte says where the cut is. Frames and checksums are made to fit, because what lies behind
// them is to be tested.
#include <cstring>
#include <span>
#include <string>

#include "base/buffer.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "checkpoint/frame.h"
#include "checkpoint/manifest.pb.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_file.h"
#include "tests/fuzz/fuzz_input.h"

namespace sepia::fuzzing {
namespace {

namespace stored = checkpoint::stored;

std::string Write(const std::string& name, const std::string& content) {
  return InputFile(name, reinterpret_cast<const uint8_t*>(content.data()), content.size());
}

uint32_t CrcOf(const std::string& text) { return Crc32c(std::as_bytes(std::span(text))); }

// The last four of the `count` bytes at `begin` become the CRC32C of those before them.
void SetCrc(std::string* shard, size_t begin, size_t count) {
  const uint32_t crc = CrcOf(shard->substr(begin, count - 4));
  std::memcpy(shard->data() + begin + count - 4, &crc, sizeof(crc));
}

// Returns the checkpoint's directory.
std::string WriteCheckpoint(const std::string& message, std::string shard) {
  constexpr size_t kHeader = checkpoint::kShardHeaderBytes;
  constexpr size_t kTrailer = checkpoint::kShardTrailerBytes;
  if (shard.size() >= kHeader + kTrailer) {
    SetCrc(&shard, 0, kHeader);
    SetCrc(&shard, shard.size() - kTrailer, kTrailer);
  }
  Write(checkpoint::ShardFileName(0, 1), shard);
  const std::string manifest = checkpoint::MakeFrame(checkpoint::kManifestMagic, message);
  stored::Manifest parsed;
  stored::Commit commit;
  if (parsed.ParseFromString(message)) {
    commit.set_uuid(parsed.uuid());
    commit.set_step(parsed.step());
  }
  commit.set_manifest_bytes(manifest.size());
  commit.set_manifest_crc32c(CrcOf(manifest));
  Write("COMMIT", checkpoint::MakeFrame(checkpoint::kCommitMagic, commit.SerializeAsString()));
  return DirectoryOf(Write("MANIFEST.pb", manifest));
}

void ReadAll(const std::string& directory) {
  const checkpoint::CheckpointReader reader(directory);
  reader.VerifyDeep();
  for (const checkpoint::StoredTensor& tensor : reader.manifest().tensors) {
    const OwnedTensor values(tensor.dtype, tensor.shape);
    reader.ReadTensor(tensor.name, tensor.role, values);
  }
}

}  // namespace
}  // namespace sepia::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const size_t cut = 1 + (size - 1) * data[0] / 255;
  const std::string directory =
      sepia::fuzzing::WriteCheckpoint(bytes.substr(1, cut - 1), bytes.substr(cut));
  return sepia::fuzzing::Feed([&] { sepia::fuzzing::ReadAll(directory); });
}
