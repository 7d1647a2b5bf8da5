#include "kernels/device_graphs.h"

#include <list>
#include <set>
#include <utility>

#include "base/check.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/ops.h"

namespace sepia::kernels {

struct DeviceGraphs::Impl {
  struct Entry {
    GraphKey key;
    cuda::GraphExec exec;
  };

  cuda::Graph Capture(const std::function<void()>& work) const {
    cuda::GraphCapture capture(cuda::MainStream());
    work();
    return capture.End();
  }

  // Moves the key's entry to the front, or returns false.
  bool Find(const GraphKey& key) {
    for (auto entry = entries.begin(); entry != entries.end(); ++entry) {
      if (entry->key != key) continue;
      entries.splice(entries.begin(), entries, entry);
      return true;
    }
    return false;
  }

  // The entry in front is the graph of `key` from here on.
  void Insert(const GraphKey& key, const cuda::Graph& graph) {
    if (entries.size() < capacity) {
      entries.push_front({key, cuda::GraphExec(graph)});
      return;
    }
    Entry& oldest = entries.back();
    if (oldest.exec.Update(graph)) {
      ++counts.updated;
      oldest.key = key;
      entries.splice(entries.begin(), entries, std::prev(entries.end()));
      return;
    }
    entries.pop_back();
    entries.push_front({key, cuda::GraphExec(graph)});
  }

  size_t capacity;
  GraphCounts counts = {};
  std::set<std::vector<int64_t>> known_shapes = {};
  std::list<Entry> entries = {};  // the one used last comes first
};

DeviceGraphs::DeviceGraphs(Device device, size_t capacity) : impl_(new Impl{.capacity = capacity}) {
  CHECK(device == Device::kCuda, "graphs are of the cuda backend");
  CHECK(capacity > 0);
}

DeviceGraphs::~DeviceGraphs() = default;

const GraphCounts& DeviceGraphs::counts() const { return impl_->counts; }

void DeviceGraphs::Run(const GraphKey& key, const std::function<void()>& work) {
  if (!impl_->known_shapes.contains(key.shape)) {
    work();
    impl_->known_shapes.insert(key.shape);
    ++impl_->counts.op_by_op;
    return;
  }
  bool found = impl_->Find(key);
  if (found && !impl_->entries.front().exec.IsIntact()) {
    impl_->entries.pop_front();
    ++impl_->counts.stale;
    found = false;
  }
  if (!found) {
    impl_->Insert(key, impl_->Capture(work));
    ++impl_->counts.captured;
  }
  impl_->entries.front().exec.Launch(cuda::MainStream());
  ++impl_->counts.launched;
}

}  // namespace sepia::kernels
