#include "tests/fuzz/fuzz_input.h"

#include <cstdlib>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"

namespace sepia::fuzzing {
namespace {

// In memory where the system has it: a disk would be most of the time of a run.
const std::string& Directory() {
  static const std::string directory = [] {
    SetLogSink([](LogLevel, std::string_view) {});
    std::string pattern = FileExists("/dev/shm") ? "/dev/shm/sepia-fuzz-XXXXXX" : "/tmp/sepia-fuzz-XXXXXX";
    CHECK(mkdtemp(pattern.data()) != nullptr, "no temporary directory");
    return pattern;
  }();
  return directory;
}

}  // namespace

std::string InputFile(const std::string& name, const uint8_t* data, size_t size) {
  const std::string path = Directory() + "/" + name;
  File file = File::Create(path);
  file.Write(std::span(reinterpret_cast<const std::byte*>(data), size));
  file.Close();
  return path;
}

}  // namespace sepia::fuzzing
