#include "tests/checkpoint/crash_disk.h"

#include <fcntl.h>
#include <linux/fs.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "base/check.h"
#include "base/file.h"

namespace sepia::checkpoint::testing {

namespace fs = std::filesystem;

CrashDisk::CrashDisk(std::string root) : root_(std::move(root)) {
  before_.push_back({.is_directory = true, .content = {}, .entries = {}});
  Import(root_, 0);
  live_ = before_;
}

void CrashDisk::Import(const std::string& path, int node) {
  for (const auto& entry : fs::directory_iterator(path)) {
    const int child = static_cast<int>(before_.size());
    const bool is_directory = entry.is_directory();
    before_.push_back({.is_directory = is_directory,
                       .content = is_directory ? "" : ReadFile(entry.path()),
                       .entries = {}});
    before_[static_cast<size_t>(node)].entries[entry.path().filename()] = child;
    if (is_directory) Import(entry.path(), child);
  }
}

CrashDisk::Place CrashDisk::Find(const std::string& path) const {
  if (!path.starts_with(root_ + "/")) return {};
  int directory = 0;
  std::string name;
  for (const fs::path& part : fs::path(path.substr(root_.size() + 1))) {
    if (!name.empty()) directory = NodeAt({directory, name});
    if (directory < 0) return {};
    name = part;
  }
  return {directory, name};
}

int CrashDisk::NodeAt(const Place& place) const {
  if (place.directory < 0) return -1;
  const auto& entries = live_[static_cast<size_t>(place.directory)].entries;
  const auto found = entries.find(place.name);
  return found == entries.end() ? -1 : found->second;
}

void CrashDisk::Record(Operation operation) {
  Apply(operation, Outcome::kDone, &live_);
  operations_.push_back(std::move(operation));
}

CrashDisk::Operation CrashDisk::MakeOperation(Operation::Kind kind, int node, int64_t offset) {
  Operation operation;
  operation.kind = kind;
  operation.node = node;
  operation.offset = offset;
  return operation;
}

void CrashDisk::RecordName(Operation::Kind kind, int node, const Place& from, const Place& to) {
  Operation operation = MakeOperation(kind, node, 0);
  operation.from = from;
  operation.to = to;
  Record(std::move(operation));
}

void CrashDisk::RecordWrite(int fd, int64_t offset, std::span<const std::byte> bytes) {
  Operation operation = MakeOperation(Operation::Kind::kWrite, -1, offset);
  operation.bytes.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  RecordOfFile(fd, std::move(operation));
}

void CrashDisk::RecordOfFile(int fd, Operation operation) {
  const auto found = open_.find(fd);
  if (found == open_.end()) return;
  operation.node = found->second;
  Record(std::move(operation));
}

void CrashDisk::Mark(int64_t value) { Record(MakeOperation(Operation::Kind::kMark, -1, value)); }

int64_t CrashDisk::MarkBefore(size_t operations) const {
  int64_t value = 0;
  for (size_t i = 0; i < operations; ++i) {
    if (operations_[i].kind == Operation::Kind::kMark) value = operations_[i].offset;
  }
  return value;
}

void CrashDisk::Apply(const Operation& operation, Outcome outcome, std::vector<Node>* nodes) {
  using Kind = Operation::Kind;
  if (outcome == Outcome::kMissing) return;
  const auto entries = [&](const Place& place) -> std::map<std::string, int>& {
    return (*nodes)[static_cast<size_t>(place.directory)].entries;
  };
  const auto size = static_cast<size_t>(operation.offset);
  std::string* content =
      operation.node < 0 ? nullptr : &(*nodes)[static_cast<size_t>(operation.node)].content;
  switch (operation.kind) {
    case Kind::kWrite: {
      const size_t count = operation.bytes.size() / (outcome == Outcome::kHalf ? 2 : 1);
      if (content->size() < size + count) content->resize(size + count, '\0');
      content->replace(size, count, operation.bytes, 0, count);
      break;
    }
    case Kind::kResize:
      if (!operation.only_grows || content->size() < size) content->resize(size, '\0');
      break;
    case Kind::kLink: entries(operation.to)[operation.to.name] = operation.node; break;
    case Kind::kUnlink: entries(operation.from).erase(operation.from.name); break;
    case Kind::kRename:
      entries(operation.from).erase(operation.from.name);
      entries(operation.to)[operation.to.name] = operation.node;
      break;
    case Kind::kExchange:
      entries(operation.from)[operation.from.name] = operation.other_node;
      entries(operation.to)[operation.to.name] = operation.node;
      break;
    case Kind::kSync:
    case Kind::kMark: break;
  }
}

bool CrashDisk::IsDurable(size_t index, size_t operations) const {
  using Kind = Operation::Kind;
  const Operation& operation = operations_[index];
  const bool is_data = operation.kind == Kind::kWrite || operation.kind == Kind::kResize;
  for (size_t i = index + 1; i < operations; ++i) {
    const Operation& sync = operations_[i];
    if (sync.kind != Kind::kSync) continue;
    if (is_data ? sync.node == operation.node
                : sync.node == operation.from.directory || sync.node == operation.to.directory) {
      return true;
    }
  }
  return false;
}

CrashDisk::Tree CrashDisk::Materialize(size_t operations,
                                       const std::map<size_t, Outcome>& pending) const {
  std::vector<Node> nodes = before_;
  nodes.resize(live_.size());
  for (size_t i = 0; i < live_.size(); ++i) nodes[i].is_directory = live_[i].is_directory;
  for (size_t i = 0; i < operations; ++i) {
    const auto found = pending.find(i);
    Apply(operations_[i], found == pending.end() ? Outcome::kDone : found->second, &nodes);
  }
  Tree tree;
  const std::function<void(int, const std::string&)> walk = [&](int node, const std::string& path) {
    for (const auto& [name, child] : nodes[static_cast<size_t>(node)].entries) {
      const Node& inner = nodes[static_cast<size_t>(child)];
      const std::string inner_path = path + "/" + name;
      tree[inner_path + (inner.is_directory ? "/" : "")] = inner.content;
      if (inner.is_directory) walk(child, inner_path);
    }
  };
  walk(0, "");
  return tree;
}

std::vector<CrashDisk::Tree> CrashDisk::StatesAfter(size_t operations, size_t most,
                                                    std::mt19937* random) const {
  using Kind = Operation::Kind;
  std::vector<size_t> pending;
  for (size_t i = 0; i < operations; ++i) {
    const Kind kind = operations_[i].kind;
    if (kind == Kind::kSync || kind == Kind::kMark || IsDurable(i, operations)) continue;
    pending.push_back(i);
  }
  std::vector<Tree> states;
  const auto add = [&](const std::function<Outcome(size_t position)>& choose) {
    std::map<size_t, Outcome> outcomes;
    for (size_t i = 0; i < pending.size(); ++i) outcomes[pending[i]] = choose(i);
    states.push_back(Materialize(operations, outcomes));
  };
  add([](size_t) { return Outcome::kDone; });
  if (pending.empty()) return states;
  add([](size_t) { return Outcome::kMissing; });
  add([](size_t) { return Outcome::kHalf; });
  const size_t count = pending.size();
  constexpr size_t kFew = 4;
  if (count <= kFew) {
    for (size_t bits = 1; bits + 1 < size_t{1} << count; ++bits) {
      add([&](size_t i) { return (bits >> i & 1) != 0 ? Outcome::kDone : Outcome::kMissing; });
    }
    return states;
  }
  // The newest first: what is old was pending before and had its turn.
  for (size_t n = 0; n < count && states.size() + 2 < most * 3 / 4; ++n) {
    const size_t one = count - 1 - n;
    add([&](size_t i) { return i == one ? Outcome::kMissing : Outcome::kDone; });
    add([&](size_t i) { return i == one ? Outcome::kDone : Outcome::kMissing; });
  }
  while (states.size() < most) {
    add([&](size_t) { return static_cast<Outcome>((*random)() % 3); });
  }
  return states;
}

int CrashDisk::Open(const std::string& path, int flags) {
  const int fd = FileCalls::Open(path, flags);
  if (fd < 0) return fd;
  if (path == root_) {
    open_[fd] = 0;
    return fd;
  }
  const Place place = Find(path);
  if (place.directory < 0) return fd;
  int node = NodeAt(place);
  if (node < 0) {
    CHECK((flags & O_CREAT) != 0, "{} is not recorded", path);
    node = static_cast<int>(live_.size());
    live_.emplace_back();
    RecordName(Operation::Kind::kLink, node, {}, place);
  } else if ((flags & O_TRUNC) != 0) {
    Record(MakeOperation(Operation::Kind::kResize, node, 0));
  }
  open_[fd] = node;
  cursor_[fd] = 0;
  return fd;
}

ssize_t CrashDisk::Write(int fd, std::span<const std::byte> bytes) {
  const ssize_t written = FileCalls::Write(fd, bytes);
  RecordWrite(fd, cursor_[fd], bytes.first(static_cast<size_t>(written)));
  cursor_[fd] += written;
  return written;
}

ssize_t CrashDisk::WriteAt(int fd, std::span<const std::byte> bytes, int64_t offset) {
  const ssize_t written = FileCalls::WriteAt(fd, bytes, offset);
  RecordWrite(fd, offset, bytes.first(static_cast<size_t>(written)));
  return written;
}

int CrashDisk::Truncate(int fd, int64_t size) {
  RecordOfFile(fd, MakeOperation(Operation::Kind::kResize, -1, size));
  return FileCalls::Truncate(fd, size);
}

int CrashDisk::Preallocate(int fd, int64_t size) {
  Operation operation = MakeOperation(Operation::Kind::kResize, -1, size);
  operation.only_grows = true;
  RecordOfFile(fd, std::move(operation));
  return FileCalls::Preallocate(fd, size);
}

int CrashDisk::Sync(int fd) {
  const int result = FileCalls::Sync(fd);
  RecordOfFile(fd, MakeOperation(Operation::Kind::kSync, -1, 0));
  return result;
}

int CrashDisk::Close(int fd) {
  open_.erase(fd);
  return FileCalls::Close(fd);
}

int CrashDisk::Rename(const std::string& from, const std::string& to, unsigned flags) {
  const int result = FileCalls::Rename(from, to, flags);
  const Place source = Find(from);
  if (result != 0 || source.directory < 0) return result;
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  Operation operation = MakeOperation(
      exchange ? Operation::Kind::kExchange : Operation::Kind::kRename, NodeAt(source), 0);
  operation.from = source;
  operation.to = Find(to);
  operation.other_node = NodeAt(operation.to);
  Record(std::move(operation));
  return result;
}

int CrashDisk::MakeDirectory(const std::string& path) {
  const int result = FileCalls::MakeDirectory(path);
  const Place place = Find(path);
  if (result != 0 || place.directory < 0) return result;
  const int node = static_cast<int>(live_.size());
  live_.push_back({.is_directory = true, .content = {}, .entries = {}});
  RecordName(Operation::Kind::kLink, node, {}, place);
  return result;
}

int CrashDisk::Unlink(const std::string& path) {
  const int result = FileCalls::Unlink(path);
  const Place place = Find(path);
  if (result == 0 && place.directory >= 0) {
    RecordName(Operation::Kind::kUnlink, -1, place, {});
  }
  return result;
}

int CrashDisk::RemoveDirectory(const std::string& path) {
  const int result = FileCalls::RemoveDirectory(path);
  const Place place = Find(path);
  if (result == 0 && place.directory >= 0) {
    RecordName(Operation::Kind::kUnlink, -1, place, {});
  }
  return result;
}

}  // namespace sepia::checkpoint::testing
