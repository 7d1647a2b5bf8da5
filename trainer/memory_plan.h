// Memory of one rank before anything is allocated, from the same code that allocates it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "model/gpt_neox.h"
#include "trainer/settings.h"

namespace sepia::trainer {

struct RunMemory {
  model::MemoryPlan model;
  int64_t optimizer = 0;      // masters, as far as they are not the weights, and moments
  int64_t communication = 0;  // what arrives from other ranks

  // Name and bytes of each arena, for tables.
  std::vector<std::pair<const char*, int64_t>> rows() const {
    return {{"parameters", model.params},
            {"gradients", model.grads},
            {"optimizer", optimizer},
            {"activations", model.activations},
            {"scratch", model.scratch},
            {"communication", communication},
            {"total", total()}};
  }

  int64_t total() const {
    return model.params + model.grads + model.activations + model.scratch + optimizer +
           communication;
  }
};

// settings.threads, or what the process may use.
int NumThreads(const TrainSettings& settings);

// Of one of `data_ranks`. A step of one micro-batch need not keep its gradients.
model::ModelOptions ModelOptionsOf(const TrainSettings& settings, int64_t data_ranks);

// Bytes of the arenas of one rank out of `data_ranks` x parallel.tensor.
RunMemory PlanMemory(const TrainSettings& settings, int64_t data_ranks = 1);

}  // namespace sepia::trainer
