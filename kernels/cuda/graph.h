// Work of a stream recorded instead of run, and launched later as a whole: the part of the seam of
// device.h that is about graphs, with the same two implementations (device_graph_runtime.cc,
// emulation/graph_emulated.cc).
//
//   GraphCapture capture(stream);
//   ...enqueue on `stream`...                  // recorded, arguments by value
//   GraphExec exec(capture.End());
//   exec.Launch(stream);                       // any number of times
//
// During a capture the calling thread may enqueue copies, sets, launches and library calls on the
// stream, and on others that wait for an event of it and that it waits for again. Refused, as CUDA
// refuses it: allocating or freeing device or pinned memory, waiting on the host, copies from or to
// pageable memory, the legacy stream, waiting for work outside the capture. A refusal ends the
// capture: End() throws. Pointers are recorded as they are: see GraphExec::IsIntact.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda {

// Whether all device memory that was there when this object was made still is. What is allocated
// later may come and go. Thread-safe.
class MemoryWatch {
 public:
  MemoryWatch();
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;
  bool intact() const { return intact_; }

 private:
  friend void NoteFree(const void* memory);
  uint64_t newest_;  // allocation when the watch began
  std::atomic<bool> intact_ = true;
};

// Both implementations of DeviceMemory say what they do.
void NoteAllocation(const void* memory);
void NoteFree(const void* memory);
// Allocations of device memory by this process so far: what a step must not add to.
uint64_t NumAllocations();

// A recorded graph.
class Graph {
 public:
  Graph(void* handle, std::shared_ptr<const MemoryWatch> memory)
      : handle_(handle), memory_(std::move(memory)) {}
  ~Graph();
  Graph(Graph&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), memory_(std::move(other.memory_)) {}
  Graph& operator=(Graph&&) = delete;

  size_t NumNodes(const Where& where = Where::Current()) const;
  void* handle() const { return handle_; }
  const std::shared_ptr<const MemoryWatch>& memory() const { return memory_; }

 private:
  void* handle_;
  std::shared_ptr<const MemoryWatch> memory_;
};

// From its making to End(), work of `stream` is recorded. One a thread at a time.
class GraphCapture {
 public:
  explicit GraphCapture(Stream& stream, const Where& where = Where::Current());
  // Drops what was recorded, unless End() was called.
  ~GraphCapture();
  GraphCapture(const GraphCapture&) = delete;
  GraphCapture& operator=(const GraphCapture&) = delete;

  // Throws DeviceError when something was refused, or a stream was not waited for.
  Graph End(const Where& where = Where::Current());

 private:
  Stream& stream_;
  bool ended_ = false;
};

// A graph ready to launch.
class GraphExec {
 public:
  explicit GraphExec(const Graph& graph, const Where& where = Where::Current());
  ~GraphExec();
  GraphExec(GraphExec&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), memory_(std::move(other.memory_)) {}
  GraphExec& operator=(GraphExec&&) = delete;

  // Takes over another graph of the same nodes and edges; later launches are that one. False: it is
  // built otherwise, and this one stays what it was.
  bool Update(const Graph& graph, const Where& where = Where::Current());
  // False once device memory of the time of the capture was freed: the graph may hold its address.
  bool IsIntact() const { return memory_->intact(); }
  // Enqueues all of it. Throws DeviceError when it is not intact.
  void Launch(Stream& stream, const Where& where = Where::Current());

 private:
  void* handle_ = nullptr;
  std::shared_ptr<const MemoryWatch> memory_;
};

}  // namespace sepia::kernels::cuda
