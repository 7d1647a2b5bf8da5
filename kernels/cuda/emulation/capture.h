// What streams, events and graphs of the emulated device share: put-off work, recorded work.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/streams.h"

namespace sepia::kernels::cuda::emulation {

// What a stream's handle points to.
struct StreamWork {
  bool is_late = false;
  std::deque<std::function<void()>> waiting;  // of a late stream

  void RunNext();
};
using SharedStream = std::shared_ptr<StreamWork>;
inline const SharedStream& StreamOf(void* handle) { return *static_cast<SharedStream*>(handle); }

struct GraphNode {
  WorkKind kind;
  std::function<void()> work;
  std::vector<size_t> after;  // nodes that come first
};

// A capture under way.
struct Capture {
  uint64_t id = 0;
  StreamWork* origin = nullptr;
  std::vector<GraphNode> nodes;
  // Streams that take part, with the nodes that their next one comes after.
  std::map<const StreamWork*, std::vector<size_t>> ends;
  std::string spoiled;  // by what; empty: not
};
// Of the calling thread, or null.
std::unique_ptr<Capture>& CurrentCapture();

// A point in a stream, from Event::Record on.
struct RecordedPoint {
  SharedStream stream;
  std::atomic<bool> done = false;
  double seconds = 0;
  uint64_t capture = 0;       // recorded in this one; 0: in none
  std::vector<size_t> nodes;  // of the capture

  void Reach();
  void WaitFor();
};

}  // namespace sepia::kernels::cuda::emulation
