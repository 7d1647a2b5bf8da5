// Writes state dicts as torch.save does: a zip of stored members with 64-byte aligned data and a
// pickle of protocol 2. torch.load(weights_only=True) reads them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/shape.h"

namespace sepia::checkpoint {

// Builds a pickle. Values are written where they belong; containers are opened and closed.
class PickleWriter {
 public:
  PickleWriter();

  void None() { Opcode('N'); }
  void Bool(bool value) { Opcode(value ? '\x88' : '\x89'); }
  void Integer(int64_t value);
  void Float(double value);
  void String(std::string_view text);
  void BeginDict();  // then key, value, key, value
  void EndDict() { Opcode('u'); }
  void EmptySet();
  // A contiguous tensor on the CPU that is all of storage `key`.
  void Tensor(DType dtype, const Shape& shape, const std::string& key);

  // The finished pickle.
  std::string Take();

 private:
  void Opcode(char opcode) { text_ += opcode; }
  void Symbol(std::string_view module, std::string_view name);
  void Tuple(std::span<const int64_t> values);

  std::string text_;
};

struct TorchMember {
  std::string name;  // below the folder
  int64_t bytes = 0;
  // Passes the content on in order, in pieces of any size.
  std::function<void(const std::function<void(std::span<const std::byte>)>&)> produce;
};

// A zip archive in which all members lie in the folder `prefix`. The file appears complete or not
// at all. Throws UserError(kUsage) when it would pass 4 GiB, the end of plain zip.
void WriteTorchArchive(const std::string& path, const std::string& prefix,
                       const std::vector<TorchMember>& members);

// A member that is already there.
TorchMember TextMember(const std::string& name, std::string text);

}  // namespace sepia::checkpoint
