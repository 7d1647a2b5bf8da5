// graph.h on the host: nodes are closures. A launch runs those of the stream that was captured in
// their order, and the others as late as their edges allow: when a node comes that waits for them.
#include "kernels/cuda/graph.h"

#include <algorithm>
#include <atomic>

#include "kernels/cuda/emulation/capture.h"

namespace sepia::kernels::cuda {
namespace {

using emulation::Capture;
using emulation::CurrentCapture;
using emulation::GraphNode;
using emulation::StreamOf;

struct Recorded {
  std::vector<GraphNode> nodes;
  std::vector<size_t> end;  // the last ones of the stream that was captured
};
using SharedGraph = std::shared_ptr<const Recorded>;  // what handles point to
const SharedGraph& GraphOf(void* handle) { return *static_cast<SharedGraph*>(handle); }

// Every node comes before the end: End() sees to it.
void RunAll(const Recorded& graph) {
  std::vector<char> done(graph.nodes.size());
  std::vector<size_t> stack(graph.end.rbegin(), graph.end.rend());
  while (!stack.empty()) {
    const size_t node = stack.back();
    const auto& after = graph.nodes[node].after;
    const auto first = std::find_if(after.begin(), after.end(), [&](size_t i) { return !done[i]; });
    if (first != after.end()) {
      stack.push_back(*first);
      continue;
    }
    stack.pop_back();
    if (!done[node]) graph.nodes[node].work();
    done[node] = true;
  }
}

bool HaveTheSameTopology(const Recorded& a, const Recorded& b) {
  return std::equal(a.nodes.begin(), a.nodes.end(), b.nodes.begin(), b.nodes.end(),
                    [](const GraphNode& left, const GraphNode& right) {
                      return left.kind == right.kind && left.after == right.after;
                    });
}

// Whether the end comes after everything: what another stream recorded last must be waited for.
bool IsJoined(const Capture& capture) {
  std::vector<char> is_waited_for(capture.nodes.size());
  const auto mark = [&](const std::vector<size_t>& nodes) {
    for (const size_t i : nodes) is_waited_for[i] = true;
  };
  for (const GraphNode& node : capture.nodes) mark(node.after);
  mark(capture.ends.at(capture.origin));
  return std::all_of(is_waited_for.begin(), is_waited_for.end(), [](char is) { return is; });
}

}  // namespace

Graph::~Graph() { delete static_cast<SharedGraph*>(handle_); }

size_t Graph::NumNodes(const Where&) const { return GraphOf(handle_)->nodes.size(); }

GraphCapture::GraphCapture(Stream& stream, const Where& where) : stream_(stream) {
  emulation::RefuseInCapture("another capture", where);
  static std::atomic<uint64_t> num_captures = 0;
  auto capture = std::make_unique<Capture>();
  capture->id = ++num_captures;
  capture->origin = StreamOf(stream.handle()).get();
  capture->ends[capture->origin] = {};
  CurrentCapture() = std::move(capture);
}

GraphCapture::~GraphCapture() {
  if (!ended_) CurrentCapture().reset();
}

Graph GraphCapture::End(const Where& where) {
  ended_ = true;
  const std::unique_ptr<Capture> capture = std::move(CurrentCapture());
  if (!capture->spoiled.empty()) {
    throw DeviceError("the capture was spoiled: " + capture->spoiled, where);
  }
  if (!IsJoined(*capture)) {
    throw DeviceError("the captured stream does not wait for another that took part", where);
  }
  auto recorded = std::make_shared<const Recorded>(
      Recorded{std::move(capture->nodes), std::move(capture->ends[capture->origin])});
  return {new SharedGraph(std::move(recorded)), std::make_shared<const MemoryWatch>()};
}

GraphExec::GraphExec(const Graph& graph, const Where&)
    : handle_(new SharedGraph(GraphOf(graph.handle()))), memory_(graph.memory()) {}

GraphExec::~GraphExec() { delete static_cast<SharedGraph*>(handle_); }

bool GraphExec::Update(const Graph& graph, const Where&) {
  const SharedGraph& recorded = GraphOf(graph.handle());
  if (!HaveTheSameTopology(*GraphOf(handle_), *recorded)) return false;
  *static_cast<SharedGraph*>(handle_) = recorded;
  memory_ = graph.memory();
  return true;
}

void GraphExec::Launch(Stream& stream, const Where& where) {
  if (!IsIntact()) throw DeviceError("a graph whose memory may have been freed", where);
  emulation::RefuseInCapture("launching a graph", where);
  emulation::RunOnStream(
      stream.handle(), {}, [graph = GraphOf(handle_)] { RunAll(*graph); }, where);
}

}  // namespace sepia::kernels::cuda
