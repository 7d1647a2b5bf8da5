#include "kernels/cuda/emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

asm(R"(
.text
.globl SepiaSwitchStack
.type SepiaSwitchStack, @function
SepiaSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size SepiaSwitchStack, .-SepiaSwitchStack
)");

namespace sepia::kernels::cuda::emulation {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr size_t kStackBytes = 256 * 1024;  // with its guard page; committed when touched

}  // namespace

FiberStacks::~FiberStacks() {
  if (memory_ != nullptr) munmap(memory_, count_ * kStackBytes);
}

void FiberStacks::Reserve(size_t count) {
  if (count <= count_) return;
  void* memory = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (memory_ != nullptr) munmap(memory_, count_ * kStackBytes);
  memory_ = static_cast<char*>(memory);
  count_ = count;
  for (size_t i = 0; i < count; ++i) mprotect(memory_ + i * kStackBytes, kGuardBytes, PROT_NONE);
}

void* FiberStacks::Prepare(size_t index, void (*entry)()) const {
  auto** top = reinterpret_cast<void**>(memory_ + (index + 1) * kStackBytes - 64);
  *--top = nullptr;  // entry() finds the stack aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // the registers that SepiaSwitchStack pops
  return top;
}

}  // namespace sepia::kernels::cuda::emulation
