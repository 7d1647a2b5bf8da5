#include "trainer/non_finite.h"

#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "base/device_memory.h"
#include "dist/gather.h"
#include "dist/launcher.h"

namespace sepia::trainer {

std::string FirstNonFiniteGradient(model::GptNeox& model) {
  const auto specs = model.parameters().specs();
  for (size_t i = 0; i < specs.size(); ++i) {
    const HostView grad(model.grad(static_cast<int>(i)));
    for (const float value : grad->span<float>()) {
      if (!std::isfinite(value)) return specs[i].hf_name;
    }
  }
  return "";
}

std::string NonFiniteOrigin(dist::Communicator& world, const std::string& own) {
  const std::vector<std::string> names = GatherTexts(world, own, "non-finite gradients");
  const std::vector<std::string> nodes = GatherTexts(world, dist::NodeName(), "node names");
  for (size_t r = 0; r < names.size(); ++r) {
    if (!names[r].empty()) return fmt::format("{} on rank {} (on {})", names[r], r, nodes[r]);
  }
  return "";
}

}  // namespace sepia::trainer
