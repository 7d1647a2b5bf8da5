// A disk that crashes: records what is done to a directory, then makes the states in which a
// machine that loses its power may leave it.
//
// What a file system promises, and no more: data of a file are on the disk after its fsync; names
// (new files and directories, renames, removals) after an fsync of their directory; a rename is
// there or is not. Everything else may be there or be missing, in any combination; a write may be
// there in part.
#pragma once

#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/file_calls.h"

namespace sepia::checkpoint::testing {

class CrashDisk : public FileCalls {
 public:
  // What `root` holds now is on the disk. Calls outside of it are passed through, unrecorded.
  explicit CrashDisk(std::string root);

  // A moment to tell apart: `value` of all states from here on.
  void Mark(int64_t value);

  // Number of moments at which a crash makes a difference, and the last mark before each.
  size_t num_operations() const { return operations_.size(); }
  int64_t MarkBefore(size_t operations) const;

  // Makes the states that a crash after the first `operations` may leave, as trees of file contents
  // by path ("/step_1/COMMIT"; directories end in "/"): everything pending done, nothing, each
  // alone, all but each, all combinations of a few, writes cut in half.
  using Tree = std::map<std::string, std::string>;
  std::vector<Tree> StatesAfter(size_t operations, size_t most, std::mt19937* random) const;

  int Open(const std::string& path, int flags) override;
  ssize_t Write(int fd, std::span<const std::byte> bytes) override;
  ssize_t WriteAt(int fd, std::span<const std::byte> bytes, int64_t offset) override;
  int Truncate(int fd, int64_t size) override;
  int Preallocate(int fd, int64_t size) override;
  int Sync(int fd) override;
  int Close(int fd) override;
  int Rename(const std::string& from, const std::string& to, unsigned flags) override;
  int MakeDirectory(const std::string& path) override;
  int Unlink(const std::string& path) override;
  int RemoveDirectory(const std::string& path) override;

 private:
  struct Node {
    bool is_directory = false;
    std::string content;
    std::map<std::string, int> entries;
  };
  struct Place {  // of a name
    int directory = -1;
    std::string name;
  };
  struct Operation {
    enum class Kind : uint8_t { kWrite, kResize, kLink, kUnlink, kRename, kExchange, kSync, kMark };
    Kind kind = Kind::kMark;
    int node = -1;        // written, linked, renamed or synced
    int other_node = -1;  // of an exchange: what `to` named
    Place from, to;
    int64_t offset = 0;  // of a write; size of kResize; value of kMark
    bool only_grows = false;
    std::string bytes;
  };
  enum class Outcome : uint8_t { kMissing, kHalf, kDone };

  static void Apply(const Operation& operation, Outcome outcome, std::vector<Node>* nodes);
  bool IsDurable(size_t index, size_t operations) const;
  Tree Materialize(size_t operations, const std::map<size_t, Outcome>& pending) const;

  void Import(const std::string& path, int node);
  Place Find(const std::string& path) const;  // directory -1: outside
  int NodeAt(const Place& place) const;
  static Operation MakeOperation(Operation::Kind kind, int node, int64_t offset);
  void Record(Operation operation);
  void RecordName(Operation::Kind kind, int node, const Place& from, const Place& to);
  void RecordWrite(int fd, int64_t offset, std::span<const std::byte> bytes);
  void RecordOfFile(int fd, Operation operation);

  const std::string root_;
  std::vector<Node> before_;  // node 0 is `root`
  std::vector<Node> live_;
  std::vector<Operation> operations_;
  std::map<int, int> open_;        // descriptor -> node
  std::map<int, int64_t> cursor_;  // descriptor -> position of Write
};

}  // namespace sepia::checkpoint::testing
