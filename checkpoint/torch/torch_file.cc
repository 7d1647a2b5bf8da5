#include "checkpoint/torch/torch_file.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "checkpoint/elements.h"

namespace sepia::checkpoint {
namespace {

constexpr int64_t kMaxPickleBytes = 256 << 20;
constexpr int kMaxZipVersion = 10;  // kMaxSupportedFileFormatVersion of torch
// The magic number 0x1950a86a20f9469cfc6c as a pickle of protocol 2.
constexpr std::string_view kLegacyMagic{"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                        15};
constexpr int64_t kLegacyProtocol = 1001;
constexpr const char* kFetchAgain = "the file is damaged or incomplete; fetch it again";

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

PickleLimits LimitsFor(PickleMode mode, int64_t file_bytes) {
  return {mode, (4 << 20) + file_bytes};
}

bool IsTar(std::string_view text) { return text.size() > 262 && text.substr(257, 5) == "ustar"; }

// The members under the one folder that torch puts everything in.
class ZipMembers {
 public:
  ZipMembers(const std::vector<ZipEntry>& entries, const std::string& path)
      : entries_(entries), path_(path) {
    if (entries.empty()) throw BadData(path, -1, "a zip archive without data.pkl");
    prefix_ = entries.front().name.substr(0, entries.front().name.find('/') + 1);
    for (const ZipEntry& entry : entries) {
      if (prefix_.empty() || !entry.name.starts_with(prefix_)) {
        throw BadData(path, entry.header_offset,
                      fmt::format("the zip archive has more than one prefix: '{}' beside '{}'",
                                  entries.front().name, entry.name),
                      "torch.save puts everything into one folder");
      }
    }
  }

  const ZipEntry* Find(std::string_view name) const {
    const std::string full = std::string(prefix_) + std::string(name);
    const auto found = std::lower_bound(
        entries_.begin(), entries_.end(), full,
        [](const ZipEntry& entry, const std::string& wanted) { return entry.name < wanted; });
    return found != entries_.end() && found->name == full ? &*found : nullptr;
  }

  // Everything but the tensors is small: its checksums are compared at once.
  const ZipEntry& Get(std::string_view name) const {
    const ZipEntry* entry = Find(name);
    if (entry == nullptr) {
      throw BadData(path_, -1, fmt::format("a zip archive without {}", name),
                    "it is not of torch.save");
    }
    CheckZipCrc(*entry, path_);
    return *entry;
  }

  void RefuseTorchScript() const {
    const bool has_code = std::any_of(entries_.begin(), entries_.end(), [&](const ZipEntry& entry) {
      return entry.name.substr(prefix_.size()).starts_with("code/");
    });
    if (!has_code && Find("constants.pkl") == nullptr) return;
    throw BadData(path_, -1, "a TorchScript archive: a program, not a state dict",
                  "save the model's state_dict() with torch.save");
  }

 private:
  const std::vector<ZipEntry>& entries_;
  const std::string& path_;
  std::string_view prefix_;
};

void CheckVersion(const ZipMembers& members, const std::string& path) {
  const ZipEntry& entry = members.Get("version");
  const std::string_view text = AsText(entry.bytes);
  int version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  const bool is_number =
      error == std::errc() && AsText(entry.bytes).substr(end - text.data()) == "\n";
  if (!is_number || version < 1 || version > kMaxZipVersion) {
    throw BadData(path, entry.offset,
                  fmt::format("torch file format version '{}'", text.substr(0, 16)),
                  fmt::format("versions 1 to {} are known", kMaxZipVersion));
  }
}

void CheckByteOrder(const ZipMembers& members, const std::string& path) {
  if (members.Find("byteorder") == nullptr) return;  // before torch 2.1
  const ZipEntry& entry = members.Get("byteorder");
  if (AsText(entry.bytes) == "little") return;
  throw BadData(path, entry.offset, "the tensors are big-endian",
                "save them again on a little-endian machine");
}

// `little_endian` of the third legacy pickle.
void CheckLegacySystem(const PickleValue& info, const std::string& path) {
  const auto* dict = PointerTo<PickleDict>(info);
  const PickleValue* value = dict == nullptr ? nullptr : FindKey(*dict, "little_endian");
  const bool* little = value == nullptr ? nullptr : std::get_if<bool>(value);
  if (little == nullptr) throw BadData(path, -1, "the legacy torch file lacks little_endian");
  if (!*little) throw BadData(path, -1, "the tensors are big-endian");
}

}  // namespace

TorchFile::TorchFile(const std::string& path, PickleMode mode) : file_(path) {
  const std::string_view text = AsText(file_.bytes());
  if (text.starts_with("PK")) {
    OpenZip(mode);
  } else if (text.starts_with("\x80")) {
    OpenLegacy(mode);
  } else if (IsTar(text)) {
    throw BadData(path, 0, "the tar container of torch before 0.1.10 cannot be read",
                  "load and save it with a newer torch");
  } else {
    throw BadData(path, 0, "not a torch file: neither a zip archive nor a pickle",
                  "a page or pointer instead of the file? fetch it again");
  }
}

void TorchFile::OpenZip(PickleMode mode) {
  entries_ = ReadZipEntries(file_.bytes(), path());
  const ZipMembers members(entries_, path());
  members.RefuseTorchScript();
  const ZipEntry& text = members.Get("data.pkl");
  CheckVersion(members, path());
  CheckByteOrder(members, path());
  if (static_cast<int64_t>(text.bytes.size()) > kMaxPickleBytes) {
    throw BadData(path(), text.offset, "data.pkl is larger than 256 MiB");
  }
  pickle_ = ParsePickle(AsText(text.bytes), path(), text.offset, LimitsFor(mode, file_.size()));
  if (pickle_.size() != static_cast<int64_t>(text.bytes.size())) {
    throw BadData(path(), text.offset + pickle_.size(), "data.pkl goes on after its end",
                  kFetchAgain);
  }
  for (const TorchStorage* storage : pickle_.storages()) {
    const ZipEntry* entry = members.Find("data/" + std::string(storage->key));
    if (entry == nullptr) {
      throw BadData(path(), -1, fmt::format("the record data/{} is missing", storage->key),
                    kFetchAgain);
    }
    AddStorage(*storage, entry->bytes, entry);
  }
}

void TorchFile::OpenLegacy(PickleMode mode) {
  const std::string_view text = AsText(file_.bytes());
  int64_t at = 0;
  const auto next = [&] {
    const auto rest = text.substr(static_cast<size_t>(at), static_cast<size_t>(kMaxPickleBytes));
    Pickle pickle = ParsePickle(rest, path(), at, LimitsFor(mode, file_.size()));
    at += pickle.size();
    return pickle;
  };
  if (!text.starts_with(kLegacyMagic)) {
    throw BadData(path(), 0, "not a torch file: a pickle without torch's magic number",
                  "only files of torch.save are read");
  }
  at = static_cast<int64_t>(kLegacyMagic.size());
  const auto protocol = next();
  const auto* number = std::get_if<int64_t>(&protocol.root());
  if (number == nullptr || *number != kLegacyProtocol) {
    throw BadData(path(), at, "an unknown protocol version of the legacy torch format");
  }
  CheckLegacySystem(next().root(), path());
  pickle_ = next();
  const Pickle keys = next();
  const auto* list = PointerTo<PickleSequence>(keys.root());
  if (list == nullptr || list->items.size() != pickle_.storages().size()) {
    throw BadData(path(), at, "the list of storages does not match the pickle", kFetchAgain);
  }
  for (const PickleValue& item : list->items) {
    const auto* key = std::get_if<std::string_view>(&item);
    const auto storages = pickle_.storages();
    const auto found = std::find_if(storages.begin(), storages.end(), [&](const auto* storage) {
      return key != nullptr && storage->key == *key;
    });
    int64_t count = 0;
    if (file_.size() - at < 8) throw BadData(path(), at, "a storage is cut short", kFetchAgain);
    std::memcpy(&count, text.data() + at, sizeof(count));
    at += 8;
    if (found == storages.end() || (*found)->num_elements != count) {
      throw BadData(path(), at, "a storage differs in size from what the pickle says", kFetchAgain);
    }
    const int64_t bytes = count * DTypeSize((*found)->dtype);
    if (bytes > file_.size() - at) {
      throw BadData(path(), at, "a storage is cut short", kFetchAgain);
    }
    AddStorage(**found, file_.bytes().subspan(static_cast<size_t>(at), static_cast<size_t>(bytes)),
               nullptr);
    at += bytes;
  }
  if (at != file_.size()) {
    throw BadData(path(), at, "bytes follow the last storage", kFetchAgain);
  }
}

void TorchFile::AddStorage(const TorchStorage& storage, std::span<const std::byte> bytes,
                           const ZipEntry* entry) {
  const int64_t wanted = storage.num_elements * DTypeSize(storage.dtype);
  const auto found = static_cast<int64_t>(bytes.size());
  if (found != wanted) {
    throw BadData(
        path(), entry == nullptr ? -1 : entry->offset,
        fmt::format("the record of storage '{}' has {} bytes, {} elements of {} need {}",
                    storage.key, found, storage.num_elements, DTypeName(storage.dtype), wanted),
        kFetchAgain);
  }
  const bool is_new =
      contents_
          .try_emplace(&storage, Content{bytes, entry, std::make_unique<std::atomic<bool>>(false)})
          .second;
  if (!is_new) throw BadData(path(), -1, fmt::format("storage '{}' appears twice", storage.key));
}

std::span<const std::byte> TorchFile::BytesOf(const TorchStorage& storage) const {
  const Content& content = contents_.at(&storage);
  if (content.entry != nullptr && !content.is_checked->load(std::memory_order_relaxed)) {
    CheckZipCrc(*content.entry, path());
    content.is_checked->store(true, std::memory_order_relaxed);
  }
  return content.bytes;
}

const PickleDict& TorchFile::RootDict() const {
  if (const auto* dict = PointerTo<PickleDict>(root())) return *dict;
  throw BadData(path(), -1, fmt::format("holds {}, not a dict", Describe(root())),
                "save a state_dict() with torch.save");
}

void TorchFile::ReadFloats(const TorchTensor& tensor, const Rectangle& part,
                           std::span<float> out) const {
  const DType dtype = tensor.storage->dtype;
  CHECK(part.Inside(tensor.shape) && IsFloating(dtype));
  CHECK_EQ(static_cast<int64_t>(out.size()), part.num_elements());
  if (out.empty()) return;
  const auto bytes = BytesOf(*tensor.storage);
  const auto size = static_cast<size_t>(DTypeSize(dtype));
  const int last = tensor.shape.rank() - 1;
  const auto length = static_cast<size_t>(last < 0 ? 1 : part.extent[last]);
  const int64_t step = last < 0 ? 1 : tensor.strides[static_cast<size_t>(last)];
  for (size_t row = 0; row < out.size() / length; ++row) {
    int64_t position = tensor.offset;
    auto rest = static_cast<int64_t>(row);
    for (int d = last; d >= 0; --d) {
      const auto i = static_cast<size_t>(d);
      const int64_t index = d == last ? 0 : rest % part.extent[d];
      if (d != last) rest /= part.extent[d];
      position += (part.offset[i] + index) * tensor.strides[i];
    }
    const std::span<float> target = out.subspan(row * length, length);
    const auto from = [&](int64_t element, size_t count) {
      return bytes.subspan(static_cast<size_t>(element) * size, count * size);
    };
    if (step == 1) {
      WidenToFloats(dtype, from(position, length), target);
      continue;
    }
    for (size_t i = 0; i < length; ++i) {
      WidenToFloats(dtype, from(position + static_cast<int64_t>(i) * step, 1),
                    target.subspan(i, 1));
    }
  }
}

bool LooksLikeTorchFile(const std::string& path) {
  const File file = File::OpenForRead(path);
  char start[2] = {};
  if (file.Size() < 2) return false;
  file.ReadAt(0, std::as_writable_bytes(std::span(start)));
  return std::memcmp(start, "PK", 2) == 0 || start[0] == '\x80';
}

}  // namespace sepia::checkpoint
