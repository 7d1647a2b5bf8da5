#include "dist/mesh.h"

#include <utility>

namespace sepia::dist {

Mesh::Mesh(std::unique_ptr<Communicator> world, int tensor) : world_(std::move(world)) {
  if (tensor < 1 || world_->size() % tensor != 0) {
    throw UserError(fmt::format("parallel.tensor = {} does not divide the {} ranks of this run; "
                                "start a multiple of it or lower parallel.tensor",
                                tensor, world_->size()));
  }
  const int data_rank = world_->rank() / tensor;
  const int tensor_rank = world_->rank() % tensor;
  data_ = world_->Split(tensor_rank, data_rank);
  tensor_ = world_->Split(data_rank, tensor_rank);
}

}  // namespace sepia::dist
