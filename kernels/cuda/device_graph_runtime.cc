// graph.h on the CUDA run time. Never run on hardware so far (docs/cuda.md).
#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_calls.h"
#include "kernels/cuda/graph.h"

namespace sepia::kernels::cuda {
namespace {

cudaGraph_t Handle(const Graph& graph) { return static_cast<cudaGraph_t>(graph.handle()); }
cudaGraphExec_t ExecHandle(void* handle) { return static_cast<cudaGraphExec_t>(handle); }

}  // namespace

Graph::~Graph() {
  if (handle_ != nullptr) cudaGraphDestroy(Handle(*this));
}

size_t Graph::NumNodes(const Where& where) const {
  size_t count = 0;
  Check(cudaGraphGetNodes(Handle(*this), nullptr, &count), "cudaGraphGetNodes", where);
  return count;
}

// Other threads, such as those that watch collectives, go on with what they do.
GraphCapture::GraphCapture(Stream& stream, const Where& where) : stream_(stream) {
  Check(cudaStreamBeginCapture(Handle(stream), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture", where);
}

GraphCapture::~GraphCapture() {
  if (ended_) return;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(Handle(stream_), &graph) == cudaSuccess && graph != nullptr) {
    cudaGraphDestroy(graph);
  }
  cudaGetLastError();  // whoever refused has told
}

Graph GraphCapture::End(const Where& where) {
  ended_ = true;
  cudaGraph_t graph = nullptr;
  Check(cudaStreamEndCapture(Handle(stream_), &graph), "cudaStreamEndCapture", where);
  return {graph, std::make_shared<const MemoryWatch>()};
}

GraphExec::GraphExec(const Graph& graph, const Where& where) : memory_(graph.memory()) {
  cudaGraphExec_t exec = nullptr;
  Check(cudaGraphInstantiate(&exec, Handle(graph), 0), "cudaGraphInstantiate", where);
  handle_ = exec;
}

GraphExec::~GraphExec() {
  if (handle_ != nullptr) cudaGraphExecDestroy(ExecHandle(handle_));
}

bool GraphExec::Update(const Graph& graph, const Where& where) {
  cudaGraphExecUpdateResultInfo result = {};
  const cudaError_t status = cudaGraphExecUpdate(ExecHandle(handle_), Handle(graph), &result);
  if (status == cudaErrorGraphExecUpdateFailure) {
    cudaGetLastError();
    return false;
  }
  Check(status, "cudaGraphExecUpdate", where);
  memory_ = graph.memory();
  return true;
}

void GraphExec::Launch(Stream& stream, const Where& where) {
  if (!IsIntact()) throw DeviceError("a graph whose memory may have been freed", where);
  Check(cudaGraphLaunch(ExecHandle(handle_), Handle(stream)), "cudaGraphLaunch", where);
}

}  // namespace sepia::kernels::cuda
