// Streams of the emulated device. Ordinarily work runs as soon as it is enqueued. A late stream
// puts its work off until somebody waits for it: host code in Synchronize, or a stream that is not
// late behind an event. That is the latest moment that hardware may choose, so code which reads a
// result without waiting for it, or writes what is still to be read, computes something else. While
// a thread captures a stream (graph.h), its work is recorded instead. Copies, launches, events and
// the stand-ins of the libraries obey.
#pragma once

#include <functional>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda::emulation {

// While one of these lives, new streams are late. What was enqueued and nobody waits for is dropped
// with its stream. A late stream belongs to one host thread; others may only ask for IsDone().
class LateStreams {
 public:
  LateStreams();
  ~LateStreams();
  LateStreams(const LateStreams&) = delete;
  LateStreams& operator=(const LateStreams&) = delete;
};

// What a node of a graph is: an executable graph takes over one of the same kinds in the same
// order.
enum class WorkKind : uint8_t { kKernel, kCopy, kSet, kLibrary };

// Whether work of the stream is put off or recorded: then arguments must live on, and for a
// captured stream may be needed many times.
bool IsPutOff(void* stream_handle);
// Whether the calling thread records the stream's work.
bool IsCaptured(void* stream_handle);
// Runs, puts off or records `work` in the order of the stream whose Stream::handle() this is; null
// is the legacy stream, whose work runs at once.
void RunOnStream(void* stream_handle, WorkKind kind, std::function<void()> work,
                 const Where& where = Where::Current());

// For what CUDA does not allow a thread that captures: spoils the capture and throws, if there is
// one. `what` says what it does not allow.
void RefuseInCapture(const char* what, const Where& where);
// The same for destructors: End() of the capture throws instead.
void SpoilCapture(const char* what) noexcept;

}  // namespace sepia::kernels::cuda::emulation
