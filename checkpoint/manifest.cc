#include "checkpoint/manifest.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/coverage.h"
#include "checkpoint/file_name.h"
#include "checkpoint/frame.h"
#include "checkpoint/manifest.pb.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/train_state_proto.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

constexpr uint32_t kFormatMajor = 1;
constexpr uint32_t kFormatMinor = 0;
constexpr int64_t kMaxManifestBytes = 64 << 20;
constexpr int64_t kMaxCommitBytes = 4096;
constexpr const char* kDamaged = "the checkpoint is damaged; use another one";
constexpr const char* kNewer = "this checkpoint needs a newer version of Sepia";

stored::Role RoleToProto(Role role) {
  return static_cast<stored::Role>(static_cast<int>(role) + 1);
}
Role RoleFromProto(stored::Role role) { return static_cast<Role>(static_cast<int>(role) - 1); }
static_assert(static_cast<int>(Role::kMaster) + 1 == stored::MASTER);
static_assert(static_cast<int>(Role::kExpAvg) + 1 == stored::EXP_AVG);
static_assert(static_cast<int>(Role::kExpAvgSq) + 1 == stored::EXP_AVG_SQ);
static_assert(static_cast<int>(Role::kWeight) + 1 == stored::WEIGHT);

stored::DType DTypeToProto(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return stored::F32;
    case DType::kBFloat16: return stored::BF16;
    case DType::kFloat16: return stored::F16;
    default: break;
  }
  CHECK(false, "checkpoints hold no {}", DTypeName(dtype));
}

DType DTypeFromProto(stored::DType dtype) {
  switch (dtype) {
    case stored::F32: return DType::kFloat32;
    case stored::BF16: return DType::kBFloat16;
    case stored::F16: return DType::kFloat16;
  }
  CHECK(false);
}

void TensorToProto(const StoredTensor& tensor, stored::Tensor* proto) {
  proto->set_name(tensor.name);
  proto->set_role(RoleToProto(tensor.role));
  proto->set_dtype(DTypeToProto(tensor.dtype));
  for (const int64_t dim : tensor.shape.dims()) proto->add_shape(static_cast<uint64_t>(dim));
  for (const StoredChunk& chunk : tensor.chunks) {
    stored::Chunk* out = proto->add_chunk();
    out->set_shard(static_cast<uint32_t>(chunk.shard));
    out->set_offset(static_cast<uint64_t>(chunk.offset));
    out->set_bytes(static_cast<uint32_t>(chunk.part.num_elements() * DTypeSize(tensor.dtype)));
    out->set_crc32c(chunk.crc32c);
    for (const int64_t start : chunk.part.offset) out->add_start(static_cast<uint64_t>(start));
    for (const int64_t count : chunk.part.extent.dims())
      out->add_count(static_cast<uint64_t>(count));
  }
}

void ShardToProto(const StoredShard& shard, stored::ShardFile* proto) {
  proto->set_file(shard.file);
  proto->set_bytes(static_cast<uint64_t>(shard.bytes));
  proto->set_writer_rank(static_cast<uint32_t>(shard.writer_rank));
  proto->set_index_crc32c(shard.index_crc32c);
}

// Turns a parsed message into a Manifest, distrusting every number.
class Decoder {
 public:
  Decoder(const stored::Manifest& proto, std::string path)
      : proto_(proto), path_(std::move(path)) {}

  Manifest Decode() {
    CheckVersion();
    Require(proto_.uuid().size() == sizeof(Uuid), "the uuid has not 16 bytes");
    Require(proto_.step() >= 0, "the step is negative");
    Require(proto_.has_model(), "the model is missing");
    std::memcpy(manifest_.uuid.data(), proto_.uuid().data(), sizeof(Uuid));
    manifest_.step = proto_.step();
    manifest_.created_unix = proto_.created_unix();
    manifest_.model = std::make_shared<config::ModelConfig>(proto_.model());
    if (proto_.has_train()) manifest_.train = FromProto(proto_.train());
    manifest_.config_text = proto_.config_text();
    manifest_.build = fmt::format("{}, {}", proto_.build().version(), proto_.build().compiler());
    for (const auto& shard : proto_.shard()) DecodeShard(shard);
    for (const auto& attachment : proto_.attachment()) DecodeAttachment(attachment);
    for (const auto& tensor : proto_.tensor()) DecodeTensor(tensor);
    CheckOrder();
    return std::move(manifest_);
  }

 private:
  void Require(bool holds, const std::string& otherwise) const {
    if (!holds) throw BadData(path_, -1, otherwise, kDamaged);
  }

  void CheckVersion() const {
    if (proto_.format_major() != kFormatMajor) {
      throw BadData(path_, -1,
                    fmt::format("checkpoint format {}.{}; this version reads {}.x",
                                proto_.format_major(), proto_.format_minor(), kFormatMajor),
                    kNewer);
    }
    if (proto_.required_features_size() > 0) {
      throw BadData(path_, -1, fmt::format("needs the feature '{}'", proto_.required_features(0)),
                    kNewer);
    }
  }

  // Files lie in the step directory itself.
  void RequirePlainName(const std::string& name) const {
    Require(IsPlainFileName(name), fmt::format("'{}' is no plain file name", name.c_str()));
  }

  int64_t Number(uint64_t value, const char* what) const {
    Require(value <= uint64_t{1} << 56, fmt::format("{} {} is out of range", what, value));
    return static_cast<int64_t>(value);
  }

  void DecodeShard(const stored::ShardFile& shard) {
    RequirePlainName(shard.file());
    manifest_.shards.push_back({shard.file(), Number(shard.bytes(), "shard size"),
                                static_cast<int>(shard.writer_rank()), shard.index_crc32c()});
    Require(manifest_.shards.back().bytes >= kShardHeaderBytes + kShardTrailerBytes,
            "a shard is smaller than its frame");
  }

  void DecodeAttachment(const stored::Attachment& attachment) {
    RequirePlainName(attachment.file());
    manifest_.attachments.push_back(
        {attachment.file(), Number(attachment.bytes(), "file size"), attachment.crc32c()});
  }

  template <typename Repeated>
  std::vector<int64_t> Numbers(const Repeated& values, const char* what) const {
    std::vector<int64_t> numbers;
    for (const uint64_t value : values) numbers.push_back(Number(value, what));
    return numbers;
  }

  Shape DecodeShape(const std::string& name, const std::vector<int64_t>& dims) const {
    Require(dims.size() <= Shape::kMaxRank,
            fmt::format("tensor '{}' has too many dimensions", name));
    int64_t product = 1;
    for (const int64_t dim : dims) {
      Require(!__builtin_mul_overflow(product, std::max<int64_t>(dim, 1), &product) &&
                  product <= int64_t{1} << 56,
              fmt::format("tensor '{}' is too large to address", name));
    }
    return Shape(std::span<const int64_t>(dims));
  }

  void DecodeTensor(const stored::Tensor& proto) {
    const std::string& name = proto.name();
    Require(!name.empty() && proto.has_role() && proto.has_dtype(),
            "a tensor has no name, role or dtype");
    StoredTensor tensor{name,
                        RoleFromProto(proto.role()),
                        DTypeFromProto(proto.dtype()),
                        DecodeShape(name, Numbers(proto.shape(), "dimension")),
                        {}};
    tensor.chunks.reserve(static_cast<size_t>(proto.chunk_size()));
    for (const auto& chunk : proto.chunk()) tensor.chunks.push_back(DecodeChunk(tensor, chunk));
    std::vector<const Rectangle*> parts;
    for (const StoredChunk& chunk : tensor.chunks) parts.push_back(&chunk.part);
    const std::string gap = WhyNotTiled(tensor.shape, parts);
    Require(gap.empty(), fmt::format("tensor '{}' ({}): {}", name, RoleName(tensor.role), gap));
    manifest_.tensors.push_back(std::move(tensor));
  }

  StoredChunk DecodeChunk(const StoredTensor& tensor, const stored::Chunk& proto) const {
    const auto require = [&](bool holds, const char* otherwise) {
      Require(holds, fmt::format("tensor '{}': a chunk {}", tensor.name, otherwise));
    };
    require(proto.shard() < manifest_.shards.size(), "lies in an unknown shard");
    StoredChunk chunk{static_cast<int>(proto.shard()),
                      Number(proto.offset(), "offset"),
                      proto.crc32c(),
                      {Numbers(proto.start(), "start"),
                       DecodeShape(tensor.name, Numbers(proto.count(), "count"))}};
    require(chunk.part.Inside(tensor.shape), "reaches outside the tensor");
    const int64_t bytes = chunk.part.num_elements() * DTypeSize(tensor.dtype);
    require(bytes > 0 && bytes <= kMaxChunkBytes && bytes == proto.bytes(), "has a wrong size");
    require(chunk.offset % kChunkAlignment == 0 && chunk.offset > 0, "lies at an odd offset");
    const int64_t end = manifest_.shards[proto.shard()].bytes - kShardTrailerBytes;
    require(chunk.offset <= end && bytes <= end - chunk.offset, "reaches outside its shard");
    return chunk;
  }

  void CheckOrder() const {
    const auto& tensors = manifest_.tensors;
    for (size_t i = 1; i < tensors.size(); ++i) {
      Require(std::pair(tensors[i - 1].name, tensors[i - 1].role) <
                  std::pair(tensors[i].name, tensors[i].role),
              fmt::format("tensor '{}' is out of order or stored twice", tensors[i].name));
    }
  }

  const stored::Manifest& proto_;
  std::string path_;
  Manifest manifest_;
};

stored::Commit ReadCommit(const std::string& step_dir) {
  const std::string path = step_dir + "/COMMIT";
  if (!FileExists(path)) {
    throw BadData(path, -1, "is missing", "saving or copying this checkpoint did not finish");
  }
  stored::Commit commit;
  if (!commit.ParseFromString(ReadFrame(path, kCommitMagic, kMaxCommitBytes))) {
    throw BadData(path, -1, "is no valid message", kDamaged);
  }
  return commit;
}

// A parsed message takes up to 60 times its bytes; every chunk takes 4096 bytes of a shard for at
// least 30 bytes of manifest. So this bound keeps memory below 16 MiB + 4 x the checkpoint.
void CheckManifestSize(const std::string& path, const std::string& step_dir, int64_t bytes) {
  int64_t total = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(step_dir, error)) {
    if (entry.is_regular_file(error)) total += static_cast<int64_t>(entry.file_size(error));
  }
  if (bytes > kMaxManifestBytes || bytes > (256 << 10) + total / 16) {
    throw BadData(path, -1, fmt::format("{} bytes are too many for this checkpoint", bytes),
                  kDamaged);
  }
}

}  // namespace

SealedManifest SealManifest(const Manifest& manifest) {
  CHECK(manifest.model != nullptr);
  stored::Manifest proto;
  proto.set_format_major(kFormatMajor);
  proto.set_format_minor(kFormatMinor);
  const std::string uuid(reinterpret_cast<const char*>(manifest.uuid.data()), sizeof(Uuid));
  proto.set_uuid(uuid);
  proto.set_created_unix(manifest.created_unix);
  proto.set_step(manifest.step);
  *proto.mutable_model() = *manifest.model;
  if (manifest.train) ToProto(*manifest.train, proto.mutable_train());
  proto.set_config_text(manifest.config_text);
  proto.mutable_build()->set_version(SEPIA_VERSION);
  proto.mutable_build()->set_compiler(__VERSION__);
  for (const StoredShard& shard : manifest.shards) ShardToProto(shard, proto.add_shard());
  for (const StoredTensor& tensor : manifest.tensors) TensorToProto(tensor, proto.add_tensor());
  for (const StoredAttachment& attachment : manifest.attachments) {
    stored::Attachment* out = proto.add_attachment();
    out->set_file(attachment.file);
    out->set_bytes(static_cast<uint64_t>(attachment.bytes));
    out->set_crc32c(attachment.crc32c);
  }
  SealedManifest sealed;
  sealed.manifest = MakeFrame(kManifestMagic, proto.SerializeAsString());
  stored::Commit commit;
  commit.set_manifest_bytes(sealed.manifest.size());
  commit.set_manifest_crc32c(Crc32c(std::as_bytes(std::span(sealed.manifest))));
  commit.set_uuid(uuid);
  commit.set_step(manifest.step);
  sealed.commit = MakeFrame(kCommitMagic, commit.SerializeAsString());
  return sealed;
}

Manifest ReadManifest(const std::string& step_dir) {
  const stored::Commit commit = ReadCommit(step_dir);
  const std::string path = step_dir + "/MANIFEST.pb";
  CheckManifestSize(path, step_dir, File::OpenForRead(path).Size());
  const std::string text = ReadFile(path, kMaxManifestBytes);
  const std::string_view payload = ParseFrame(text, kManifestMagic, path);
  if (commit.manifest_bytes() != text.size() ||
      commit.manifest_crc32c() != Crc32c(std::as_bytes(std::span(text)))) {
    throw BadData(path, -1, "is not the manifest that COMMIT seals", kDamaged);
  }
  stored::Manifest proto;
  if (!proto.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    throw BadData(path, -1, "is no valid message", kDamaged);
  }
  Manifest manifest = Decoder(proto, path).Decode();
  if (commit.step() != manifest.step || commit.uuid() != proto.uuid()) {
    throw BadData(path, -1, "COMMIT belongs to another checkpoint", kDamaged);
  }
  return manifest;
}

int64_t ReadCommittedStep(const std::string& step_dir) { return ReadCommit(step_dir).step(); }

std::string EncodeShardIndex(const std::vector<StoredTensor>& tensors) {
  stored::ShardIndex index;
  for (const StoredTensor& tensor : tensors) TensorToProto(tensor, index.add_tensor());
  return index.SerializeAsString();
}

std::string EncodeShardReport(const ShardReport& report) {
  stored::ShardReport proto;
  ShardToProto(report.shard, proto.mutable_file());
  for (const StoredTensor& tensor : report.tensors) TensorToProto(tensor, proto.add_tensor());
  return proto.SerializeAsString();
}

ShardReport DecodeShardReport(const std::string& bytes) {
  stored::ShardReport proto;
  CHECK(proto.ParseFromString(bytes), "a shard report of {} bytes", bytes.size());
  const auto numbers = [](const auto& values) {
    return std::vector<int64_t>(values.begin(), values.end());
  };
  const stored::ShardFile& file = proto.file();
  ShardReport report{.shard = {file.file(), static_cast<int64_t>(file.bytes()),
                               static_cast<int>(file.writer_rank()), file.index_crc32c()},
                     .tensors = {}};
  for (const stored::Tensor& in : proto.tensor()) {
    StoredTensor tensor{.name = in.name(),
                        .role = RoleFromProto(in.role()),
                        .dtype = DTypeFromProto(in.dtype()),
                        .shape = Shape(numbers(in.shape())),
                        .chunks = {}};
    for (const stored::Chunk& chunk : in.chunk()) {
      tensor.chunks.push_back({static_cast<int>(chunk.shard()),
                               static_cast<int64_t>(chunk.offset()),
                               chunk.crc32c(),
                               {numbers(chunk.start()), Shape(numbers(chunk.count()))}});
    }
    report.tensors.push_back(std::move(tensor));
  }
  return report;
}

}  // namespace sepia::checkpoint
