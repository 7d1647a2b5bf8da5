// The shared memory of the running block, and who touched each of its words since which barrier.
//
// Between two barriers the threads of a block are unordered, so two accesses to a word by different
// threads, one of them a write, are a race whatever order they ran in here. An asynchronous copy
// writes at an unknown moment between its issue and its thread's wait: any access meanwhile is one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sepia::kernels::cuda::emulation {

class SharedMemory {
 public:
  // New memory for a block, poisoned with NaN patterns; addresses may stay the same.
  void StartBlock(size_t num_bytes);
  void PassBarrier() { ++epoch_; }

  uint8_t* data() const { return data_; }
  bool Contains(const void* address, size_t num_bytes) const;

  // Each returns nullptr, or what is wrong with the access. Addresses are inside and aligned to 4.
  const char* Read(int thread, const void* address, size_t num_bytes);
  const char* Write(int thread, const void* address, size_t num_bytes);
  const char* StartAsyncWrite(int thread, const void* address, size_t num_bytes);
  void FinishAsyncWrite(int thread, const void* address, size_t num_bytes);

 private:
  static constexpr int kNobody = -1;
  static constexpr int kSeveral = -2;

  struct Word {
    uint32_t write_epoch = 0;
    uint32_t read_epoch = 0;
    int16_t writer = kNobody;
    int16_t reader = kNobody;
    int16_t async_writer = kNobody;
  };
  template <typename Fn>
  const char* ForWords(const void* address, size_t num_bytes, const Fn& fn);
  const char* CheckWrite(const Word& word, int thread) const;

  std::vector<uint8_t> storage_;
  std::vector<Word> words_;
  uint8_t* data_ = nullptr;
  size_t num_bytes_ = 0;
  uint32_t epoch_ = 0;
  uint32_t first_epoch_ = 1;  // of the running block
};

}  // namespace sepia::kernels::cuda::emulation
