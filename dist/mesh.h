// The ranks of a run as a grid of data x tensor. Tensor ranks are innermost (adjacent), as in
// Megatron: world rank = data_rank * tensor_size + tensor_rank.
#pragma once

#include <memory>
#include <string>

#include "dist/communicator.h"
#include "dist/launcher.h"

namespace sepia::dist {

class Mesh {
 public:
  // Collective. `tensor` must divide the world size, and the ranks of a tensor group must run on
  // one node (`node` is this rank's): they talk in every block. Throws Error(kUsage) otherwise, as
  // Agree does.
  Mesh(std::unique_ptr<Communicator> world, int tensor, const std::string& node = NodeName());

  Communicator& world() { return *world_; }
  // Ranks that hold the same shard of the model and different rows of the batch.
  Communicator& data() { return *data_; }
  // Ranks that hold different shards of the model and the same rows.
  Communicator& tensor() { return *tensor_; }

 private:
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Communicator> data_;
  std::unique_ptr<Communicator> tensor_;
};

}  // namespace sepia::dist
