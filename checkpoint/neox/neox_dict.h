// Typed access to the dicts in DeepSpeed's files.
#pragma once

#include <optional>
#include <string>

#include "checkpoint/neox/neox_files.h"

namespace sepia::checkpoint {

// The dict `dict` of file `path`; messages call it `where`.
class NeoxDict {
 public:
  NeoxDict(const PickleDict& dict, const std::string& path, std::string where = "")
      : dict_(&dict), path_(&path), where_(std::move(where)) {}

  const PickleDict& dict() const { return *dict_; }
  [[noreturn]] void Fail(std::string_view key, const std::string& reason) const;
  // Null when absent or None.
  const PickleValue* Find(std::string_view key) const;
  // Throws BadData when absent.
  const PickleValue& Get(std::string_view key) const;
  NeoxDict GetDict(std::string_view key) const;
  const PickleSequence& GetSequence(std::string_view key) const;
  // A number, or `otherwise` where it is absent.
  double Number(std::string_view key, double otherwise) const;
  // A non-negative integer.
  int64_t Count(std::string_view key) const;

 private:
  const PickleDict* dict_;
  const std::string* path_;
  std::string where_;
};

}  // namespace sepia::checkpoint
