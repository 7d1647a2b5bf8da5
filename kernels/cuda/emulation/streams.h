// Streams of the emulated device. Ordinarily work runs as soon as it is enqueued. A late stream
// puts its work off until somebody waits for it: host code in Synchronize, or a stream that is not
// late behind an event. That is the latest moment that hardware may choose, so code which reads a
// result without waiting for it, or writes what is still to be read, computes something else.
// Copies, launches, events and NCCL's stand-in obey; those of cuBLASLt and cuDNN always run at
// once.
#pragma once

#include <functional>

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

// Whether work is put off: then arguments must live on.
bool IsLate(const void* stream_handle);
// Runs `work` in the order of the stream whose Stream::handle() this is.
void RunOnStream(void* stream_handle, std::function<void()> work);

}  // namespace sepia::kernels::cuda::emulation
