#include "kernels/cuda/emulation/shared_memory.h"

#include <cstring>

namespace sepia::kernels::cuda::emulation {

void SharedMemory::StartBlock(size_t num_bytes) {
  constexpr size_t kAlignment = 128;
  num_bytes_ = num_bytes;
  if (storage_.size() < num_bytes + kAlignment) storage_.resize(num_bytes + kAlignment);
  if (words_.size() < num_bytes / 4 + 1) words_.resize(num_bytes / 4 + 1);
  const auto address = reinterpret_cast<uintptr_t>(storage_.data());
  data_ = storage_.data() + (kAlignment - address % kAlignment) % kAlignment;
  std::memset(data_, 0xff, num_bytes);
  first_epoch_ = ++epoch_;
  for (Word& word : words_) word.async_writer = kNobody;
}

bool SharedMemory::Contains(const void* address, size_t num_bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const auto start = reinterpret_cast<uintptr_t>(data_);
  return begin >= start && begin + num_bytes <= start + num_bytes_;
}

template <typename Fn>
const char* SharedMemory::ForWords(const void* address, size_t num_bytes, const Fn& fn) {
  const auto first = static_cast<size_t>(static_cast<const uint8_t*>(address) - data_) / 4;
  for (size_t i = first; i < first + (num_bytes + 3) / 4; ++i) {
    if (const char* fault = fn(words_[i])) return fault;
  }
  return nullptr;
}

const char* SharedMemory::Read(int thread, const void* address, size_t num_bytes) {
  return ForWords(address, num_bytes, [&](Word& word) -> const char* {
    if (word.async_writer != kNobody) return "reads what an asynchronous copy is still writing";
    if (word.write_epoch < first_epoch_) return "reads shared memory that nobody has written";
    if (word.write_epoch == epoch_ && word.writer != thread) {
      return "reads what another thread wrote since the last barrier";
    }
    if (word.read_epoch != epoch_) {
      word.read_epoch = epoch_;
      word.reader = static_cast<int16_t>(thread);
    } else if (word.reader != thread) {
      word.reader = kSeveral;
    }
    return nullptr;
  });
}

const char* SharedMemory::CheckWrite(const Word& word, int thread) const {
  if (word.async_writer != kNobody) return "writes what an asynchronous copy is still writing";
  if (word.write_epoch == epoch_ && word.writer != thread) {
    return "writes what another thread wrote since the last barrier";
  }
  if (word.read_epoch == epoch_ && word.reader != thread) {
    return "writes what another thread read since the last barrier";
  }
  return nullptr;
}

const char* SharedMemory::Write(int thread, const void* address, size_t num_bytes) {
  return ForWords(address, num_bytes, [&](Word& word) {
    const char* fault = CheckWrite(word, thread);
    word.write_epoch = epoch_;
    word.writer = static_cast<int16_t>(thread);
    return fault;
  });
}

const char* SharedMemory::StartAsyncWrite(int thread, const void* address, size_t num_bytes) {
  return ForWords(address, num_bytes, [&](Word& word) {
    const char* fault = CheckWrite(word, thread);
    word.async_writer = static_cast<int16_t>(thread);
    return fault;
  });
}

void SharedMemory::FinishAsyncWrite(int thread, const void* address, size_t num_bytes) {
  ForWords(address, num_bytes, [&](Word& word) -> const char* {
    word.async_writer = kNobody;
    word.write_epoch = epoch_;
    word.writer = static_cast<int16_t>(thread);
    return nullptr;
  });
}

}  // namespace sepia::kernels::cuda::emulation
