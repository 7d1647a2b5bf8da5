#include "checkpoint/torch/torch_writer.h"

#include <cstring>
#include <limits>

#include <zlib.h>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/error.h"
#include "base/integer.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kLocalBytes = 30;
constexpr int64_t kExtraHeaderBytes = 4;
constexpr uint16_t kVersion = 20;
constexpr uint16_t kUtf8Names = 1 << 11;
// 1980-01-01, the zero of zip: equal models make equal files.
constexpr uint32_t kDate = 0x00210000;

std::string_view StorageName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "FloatStorage";
    case DType::kFloat16: return "HalfStorage";
    case DType::kBFloat16: return "BFloat16Storage";
    default: break;
  }
  CHECK(false, "no model is stored as {}", DTypeName(dtype));
}

class Record {
 public:
  template <typename T>
  Record& Add(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Record& Text(std::string_view text) {
    text_ += text;
    return *this;
  }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(text_)); }
  int64_t size() const { return static_cast<int64_t>(text_.size()); }

 private:
  std::string text_;
};

struct Placed {
  std::string name;
  int64_t header = 0;
  int64_t data = 0;
  int64_t bytes = 0;
  uint32_t crc = 0;

  uint16_t extra_bytes() const {
    return static_cast<uint16_t>(data - header - kLocalBytes - static_cast<int64_t>(name.size()));
  }
  // What local and central headers share, from the version to the length of the name.
  void AddCommon(Record* record) const {
    record->Add(kVersion).Add(kUtf8Names).Add(uint16_t{0}).Add(kDate).Add(crc);
    record->Add(static_cast<uint32_t>(bytes)).Add(static_cast<uint32_t>(bytes));
    record->Add(static_cast<uint16_t>(name.size()));
  }
};

// "FB", then Z up to the alignment, as torch pads.
Record LocalHeader(const Placed& placed) {
  Record record;
  record.Add(uint32_t{0x04034b50});
  placed.AddCommon(&record);
  const uint16_t extra = placed.extra_bytes();
  record.Add(extra).Text(placed.name).Text("FB");
  const auto padding = static_cast<uint16_t>(extra - kExtraHeaderBytes);
  record.Add(padding).Text(std::string(padding, 'Z'));
  return record;
}

Record CentralHeader(const Placed& placed) {
  Record record;
  record.Add(uint32_t{0x02014b50}).Add(kVersion);
  placed.AddCommon(&record);
  record.Add(uint16_t{0}).Add(uint16_t{0}).Add(uint16_t{0});  // extra, comment, disk
  record.Add(uint16_t{0}).Add(uint32_t{0});                   // attributes
  record.Add(static_cast<uint32_t>(placed.header)).Text(placed.name);
  return record;
}

std::vector<Placed> Place(const std::string& path, const std::string& prefix,
                          const std::vector<TorchMember>& members) {
  std::vector<Placed> placed;
  int64_t at = 0;
  for (const TorchMember& member : members) {
    Placed& next = placed.emplace_back();
    next.name = prefix + "/" + member.name;
    next.header = at;
    const int64_t least =
        at + kLocalBytes + static_cast<int64_t>(next.name.size()) + kExtraHeaderBytes;
    next.data = RoundUp(least, kAlignment);
    next.bytes = member.bytes;
    at = next.data + next.bytes;
  }
  if (at > int64_t{std::numeric_limits<int32_t>::max()} * 2 || placed.size() >= 0xFFFF) {
    throw UserError(fmt::format("{} would pass 4 GiB; choose a narrower --dtype", path));
  }
  return placed;
}

void WriteMember(const TorchMember& member, File& file, Placed* placed) {
  int64_t at = placed->data;
  uLong crc = 0;
  member.produce([&](std::span<const std::byte> bytes) {
    file.WriteAt(at, bytes);
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
    at += static_cast<int64_t>(bytes.size());
  });
  CHECK_EQ(at, placed->data + placed->bytes);
  placed->crc = static_cast<uint32_t>(crc);
  file.WriteAt(placed->header, LocalHeader(*placed).bytes());
}

}  // namespace

PickleWriter::PickleWriter() : text_("\x80\x02", 2) {}

void PickleWriter::Integer(int64_t value) {
  if (value >= INT32_MIN && value <= INT32_MAX) {
    const auto narrow = static_cast<int32_t>(value);
    Opcode('J');
    text_.append(reinterpret_cast<const char*>(&narrow), sizeof(narrow));
    return;
  }
  text_.append("\x8a\x08", 2);
  text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PickleWriter::Float(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = __builtin_bswap64(bits);
  Opcode('G');
  text_.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
}

void PickleWriter::String(std::string_view text) {
  const auto size = static_cast<uint32_t>(text.size());
  Opcode('X');
  text_.append(reinterpret_cast<const char*>(&size), sizeof(size));
  text_ += text;
}

void PickleWriter::BeginDict() {
  Opcode('}');
  Opcode('(');
}

void PickleWriter::EmptySet() {
  Symbol("__builtin__", "set");
  text_ += "]\x85R";
}

void PickleWriter::Symbol(std::string_view module, std::string_view name) {
  Opcode('c');
  text_.append(module).append("\n").append(name).append("\n");
}

void PickleWriter::Tuple(std::span<const int64_t> values) {
  Opcode('(');
  for (const int64_t value : values) Integer(value);
  Opcode('t');
}

void PickleWriter::Tensor(DType dtype, const Shape& shape, const std::string& key) {
  Symbol("torch._utils", "_rebuild_tensor_v2");
  text_ += "((";
  String("storage");
  Symbol("torch", StorageName(dtype));
  String(key);
  String("cpu");
  Integer(shape.num_elements());
  text_ += "tQ";
  Integer(0);
  Tuple(shape.dims());
  std::vector<int64_t> strides(static_cast<size_t>(shape.rank()), 1);
  for (size_t d = strides.size(); d-- > 1;) strides[d - 1] = strides[d] * shape.dims()[d];
  Tuple(strides);
  Bool(false);
  Symbol("collections", "OrderedDict");
  text_ += ")RtR";
}

std::string PickleWriter::Take() {
  Opcode('.');
  return std::move(text_);
}

TorchMember TextMember(const std::string& name, std::string text) {
  const auto bytes = static_cast<int64_t>(text.size());
  return {name, bytes,
          [text = std::move(text)](const auto& take) { take(std::as_bytes(std::span(text))); }};
}

void WriteTorchArchive(const std::string& path, const std::string& prefix,
                       const std::vector<TorchMember>& members) {
  std::vector<Placed> placed = Place(path, prefix, members);
  AtomicFile target(path);
  for (size_t i = 0; i < members.size(); ++i) WriteMember(members[i], target.file(), &placed[i]);
  const int64_t directory = placed.empty() ? 0 : placed.back().data + placed.back().bytes;
  int64_t at = directory;
  for (const Placed& member : placed) {
    const Record record = CentralHeader(member);
    target.file().WriteAt(at, record.bytes());
    at += record.size();
  }
  const auto count = static_cast<uint16_t>(placed.size());
  Record end;
  end.Add(uint32_t{0x06054b50}).Add(uint16_t{0}).Add(uint16_t{0}).Add(count).Add(count);
  end.Add(static_cast<uint32_t>(at - directory)).Add(static_cast<uint32_t>(directory));
  end.Add(uint16_t{0});
  target.file().WriteAt(at, end.bytes());
  target.Commit();
}

}  // namespace sepia::checkpoint
