// A fuzz target feeds bytes to one reader. The reader may accept them or refuse them with a
// UserError; anything else (a crash, a sanitizer report, another exception) is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace sepia::fuzzing {

// The path of a file that holds these bytes until the next call with the same `name`.
std::string InputFile(const std::string& name, const uint8_t* data, size_t size);

template <typename Reader>
int Feed(const Reader& reader) {
  try {
    reader();
  } catch (const UserError&) {  // refused: as it should be
  }
  return 0;
}

}  // namespace sepia::fuzzing
