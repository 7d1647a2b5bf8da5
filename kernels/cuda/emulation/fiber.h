// Switching between stacks of one host thread (x86-64). swapcontext would do the same with a system
// call each time; kernels switch a hundred million times a minute.
#pragma once

#include <cstddef>

namespace sepia::kernels::cuda::emulation {

// Saves the callee-saved registers and the stack pointer to *save, continues at `resume`.
extern "C" void SepiaSwitchStack(void** save, void* resume);

// Stacks with an unmapped page below each, kept for reuse.
class FiberStacks {
 public:
  FiberStacks() = default;
  ~FiberStacks();
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;

  // At least `count` stacks.
  void Reserve(size_t count);
  // A stack pointer that, resumed, calls entry(), which must not return.
  void* Prepare(size_t index, void (*entry)()) const;

 private:
  char* memory_ = nullptr;
  size_t count_ = 0;
};

}  // namespace sepia::kernels::cuda::emulation
