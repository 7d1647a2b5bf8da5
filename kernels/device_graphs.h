// Work that a device does again and again, launched as a whole instead of op by op: CUDA graphs.
//
//   DeviceGraphs graphs(Device::kCuda);
//   graphs.Run(key, [&] { model.Forward(ctx, batch); model.Backward(ctx, batch, ...); });
//
// Equal keys promise equal work: the same ops on the same memory with the same arguments; what
// differs lies in device memory. Work of a shape that is new runs op by op, so that whatever is
// made on first use is made. After that a key that is new is captured, then launched; one that is
// known is launched, and `work` is not called. While work is captured it must neither allocate nor
// wait nor copy from the host (kernels/cuda/graph.h). A graph is captured anew when memory that was
// there at its capture has been freed since.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/tensor.h"

namespace sepia::kernels {

struct GraphKey {
  std::vector<int64_t> shape;  // decides which ops run, and how they choose their kernels
  std::vector<int64_t> grids;  // changes grids and strides only
  friend auto operator<=>(const GraphKey&, const GraphKey&) = default;
};

// How often Run did what.
struct GraphCounts {
  int64_t op_by_op = 0;
  int64_t launched = 0;  // all the others
  int64_t captured = 0;  // of those, with a key that was not there
  int64_t updated = 0;   // of those, into an older graph's memory
  int64_t stale = 0;     // of those, for memory that had been freed
};

// Not thread-safe; one per rank.
class DeviceGraphs {
 public:
  // Keeps the graphs of the `capacity` keys that were used last. CHECK-fails for a device that has
  // no graphs.
  explicit DeviceGraphs(Device device, size_t capacity = 16);
  ~DeviceGraphs();

  void Run(const GraphKey& key, const std::function<void()>& work);
  const GraphCounts& counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sepia::kernels
