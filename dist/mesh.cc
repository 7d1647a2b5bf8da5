#include "dist/mesh.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "dist/agreement.h"
#include "dist/gather.h"

namespace sepia::dist {
namespace {

// Divisors of the smallest number of adjacent ranks that one node holds.
std::vector<int> TensorSizesThatFit(const std::vector<std::string>& nodes) {
  std::vector<int> sizes;
  const auto size = static_cast<int>(nodes.size());
  for (int tensor = 1; tensor <= size; ++tensor) {
    bool fits = size % tensor == 0;
    for (int r = 0; fits && r < size; ++r) {
      fits = nodes[static_cast<size_t>(r)] == nodes[static_cast<size_t>(r / tensor * tensor)];
    }
    if (fits) sizes.push_back(tensor);
  }
  return sizes;
}

void RequireDivisor(int world_size, int tensor) {
  if (tensor >= 1 && world_size % tensor == 0) return;
  throw UserError(
      fmt::format("parallel.tensor = {} does not divide the {} ranks of this run; "
                  "start a multiple of it or lower parallel.tensor",
                  tensor, world_size));
}

void RequireOneNodePerTensorGroup(const std::vector<std::string>& nodes, int tensor) {
  for (size_t r = 0; r < nodes.size(); ++r) {
    const size_t first = r / static_cast<size_t>(tensor) * static_cast<size_t>(tensor);
    if (nodes[r] == nodes[first]) continue;
    throw UserError(fmt::format(
        "parallel.tensor = {} would put ranks {} (on {}) and {} (on {}) into one tensor group, but "
        "these ranks exchange data in every block and must share a node. Place adjacent ranks on "
        "one node (mpirun --map-by slot), or set parallel.tensor to one of: {}",
        tensor, first, nodes[first], r, nodes[r], fmt::join(TensorSizesThatFit(nodes), ", ")));
  }
}

}  // namespace

Mesh::Mesh(std::unique_ptr<Communicator> world, int tensor, const std::string& node)
    : world_(std::move(world)) {
  const std::vector<std::string> nodes = GatherTexts(*world_, node, "node names");
  Agree(*world_, [&] {
    RequireDivisor(world_->size(), tensor);
    RequireOneNodePerTensorGroup(nodes, tensor);
  });
  const int data_rank = world_->rank() / tensor;
  const int tensor_rank = world_->rank() % tensor;
  data_ = world_->Split(tensor_rank, data_rank, "data");
  tensor_ = world_->Split(data_rank, tensor_rank, "tensor");
}

}  // namespace sepia::dist
