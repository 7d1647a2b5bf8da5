#include "tests/checkpoint/file_damage.h"

#include <filesystem>

#include "base/file.h"
#include "tests/checkpoint/tiny_checkpoint.h"

namespace sepia::checkpoint::testing {

void ForEachFlippedBit(const std::string& path, int count, const std::function<void()>& check) {
  const auto bits = static_cast<int64_t>(std::filesystem::file_size(path)) * 8;
  for (int64_t i = 0; i < count; ++i) {
    // Even steps, moved by a number prime to 8, so that every bit of a byte has its turn.
    const int64_t bit = (i * (bits / count) + i * 5) % bits;
    FlipBit(path, bit);
    check();
    FlipBit(path, bit);
  }
}

void ForEachTruncation(const std::string& path, int count, const std::function<void()>& check) {
  const std::string whole = ReadFile(path);
  for (int i = 0; i < count; ++i) {
    const size_t length = i * (whole.size() - 1) / static_cast<size_t>(count - 1);
    WriteFileAtomic(path, std::string_view(whole).substr(0, length));
    check();
  }
  WriteFileAtomic(path, whole);
}

}  // namespace sepia::checkpoint::testing
