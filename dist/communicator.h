// Collectives over one group of ranks. A group of one is a real communicator, so parallel code has
// no `if (size > 1)`. Passed, never global.
//
// Every call carries a label: what it is for ("block 3 forward"). All ranks of a group make the
// same calls in the same order. Calls are asynchronous and progress by themselves, those of one
// group one after the other, groups beside each other: Wait() on the returned Pending before the
// data is used, also by another group. Reductions add in rank order, bf16 and f16 in fp32 with one
// rounding at the end, so results depend on the ranks' order and on nothing else: not on message
// sizes, nodes or the MPI library.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/tensor.h"
#include "kernels/context.h"

namespace sepia::dist {

class FlightRecorder;

enum class ReduceOp : uint8_t { kSum, kMin, kMax };

// Handle of a collective under way. Wait() throws what the collective threw; destroying the handle
// waits as well, and leaves errors to the next call.
class Pending {
 public:
  Pending() = default;  // already complete
  explicit Pending(std::function<void()> wait) : wait_(std::move(wait)) {}
  Pending(Pending&& other) noexcept : wait_(std::exchange(other.wait_, nullptr)) {}
  Pending& operator=(Pending&& other) noexcept {
    WaitQuietly();
    wait_ = std::exchange(other.wait_, nullptr);
    return *this;
  }
  ~Pending() { WaitQuietly(); }

  void Wait() {
    if (auto wait = std::exchange(wait_, nullptr)) wait();
  }

 private:
  void WaitQuietly() noexcept {
    try {
      Wait();
    } catch (...) {  // a destructor has nobody to tell
    }
  }

  std::function<void()> wait_;
};

// What one rank sent to the other ranks of a group, and the time that took.
struct Traffic {
  int64_t operations = 0;
  int64_t bytes_sent = 0;
  // Time that collectives ran, waiting for other ranks included, and the part of it that somebody
  // spent in Pending::Wait() or Barrier(): the rest was hidden behind computation.
  double busy_seconds = 0;
  double waited_seconds = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // "world", "data", "tensor": for messages.
  virtual const std::string& name() const = 0;

  // In place over all ranks. f32, f64, bf16, f16, i32, i64.
  [[nodiscard]] virtual Pending AllReduce(kernels::Context& ctx, TensorView data, ReduceOp op,
                                          std::string_view label) = 0;
  // Rank r receives the reduced r-th of size() equal slices of `input`. `output` may be that slice
  // of `input`.
  [[nodiscard]] virtual Pending ReduceScatter(kernels::Context& ctx, ConstTensorView input,
                                              TensorView output, ReduceOp op,
                                              std::string_view label) = 0;
  // `output` is the concatenation of every rank's `input`, in rank order; any dtype. `input` may be
  // this rank's slice of `output`.
  [[nodiscard]] virtual Pending AllGather(kernels::Context& ctx, ConstTensorView input,
                                          TensorView output, std::string_view label) = 0;
  [[nodiscard]] virtual Pending Broadcast(kernels::Context& ctx, TensorView data, int root,
                                          std::string_view label) = 0;
  virtual void Barrier(std::string_view label) = 0;
  // Ranks with equal `color` form a new group, ordered by `key`.
  virtual std::unique_ptr<Communicator> Split(int color, int key, const std::string& name) = 0;
  // Ends the whole job with this exit code.
  [[noreturn]] virtual void Abort(int exit_code) = 0;

  // Of this rank so far; groups made by Split count their own.
  virtual Traffic traffic() const = 0;

  // Of this rank, shared by its groups; null where there is nobody to wait for.
  virtual std::shared_ptr<FlightRecorder> recorder() { return nullptr; }
};

// The world of one process.
std::unique_ptr<Communicator> MakeSelfCommunicator(const std::string& name = "world");

// The world of this process's launcher: MPI when mpirun or srun started it, one process otherwise.
std::unique_ptr<Communicator> MakeWorldCommunicator();

// Compares every call of all ranks before it is made: operation, label, count, dtype. A difference
// throws InternalError on all ranks, naming the rank that differs. Costs a small all-gather a call.
std::unique_ptr<Communicator> MakeCheckedCommunicator(std::unique_ptr<Communicator> inner);

}  // namespace sepia::dist
