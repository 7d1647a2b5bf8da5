// Collectives over one group of ranks. A group of one is a real communicator, so parallel code has
// no `if (size > 1)`. Passed, never global.
//
// Every call carries a label: what it is for ("block 3 forward"). All ranks of a group make the
// same calls in the same order. Calls are asynchronous: Wait() on the returned Pending before the
// data is used. Reductions of bf16 and f16 accumulate in fp32 in rank order, so results do not
// depend on a library's algorithm. Failures (a lost peer) end the process with 71.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::dist {

enum class ReduceOp : uint8_t { kSum, kMin, kMax };

// Handle of a collective under way; destroying it waits.
class Pending {
 public:
  Pending() = default;  // already complete
  explicit Pending(std::function<void()> wait) : wait_(std::move(wait)) {}
  Pending(Pending&& other) noexcept : wait_(std::exchange(other.wait_, nullptr)) {}
  Pending& operator=(Pending&& other) noexcept {
    Wait();
    wait_ = std::exchange(other.wait_, nullptr);
    return *this;
  }
  ~Pending() { Wait(); }

  void Wait() {
    if (auto wait = std::exchange(wait_, nullptr)) wait();
  }

 private:
  std::function<void()> wait_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // In place over all ranks. f32, f64, bf16, f16, i32, i64.
  [[nodiscard]] virtual Pending AllReduce(kernels::Context& ctx, TensorView data, ReduceOp op,
                                          std::string_view label) = 0;
  // Rank r receives the reduced r-th of size() equal slices of `input`.
  [[nodiscard]] virtual Pending ReduceScatter(kernels::Context& ctx, ConstTensorView input,
                                              TensorView output, ReduceOp op,
                                              std::string_view label) = 0;
  // `output` is the concatenation of every rank's `input`, in rank order.
  [[nodiscard]] virtual Pending AllGather(kernels::Context& ctx, ConstTensorView input,
                                          TensorView output, std::string_view label) = 0;
  [[nodiscard]] virtual Pending Broadcast(kernels::Context& ctx, TensorView data, int root,
                                          std::string_view label) = 0;
  virtual void Barrier(std::string_view label) = 0;
  // Ranks with equal `color` form a new group, ordered by `key`.
  virtual std::unique_ptr<Communicator> Split(int color, int key) = 0;
  // Ends the whole job with this exit code.
  [[noreturn]] virtual void Abort(int exit_code) = 0;
};

// The world of one process.
std::unique_ptr<Communicator> MakeSelfCommunicator();

}  // namespace sepia::dist
