#include "trainer/replicas.h"

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/crc32c.h"
#include "base/device_memory.h"
#include "base/error.h"
#include "dist/agreement.h"
#include "dist/gather.h"
#include "dist/launcher.h"

namespace sepia::trainer {
namespace {

std::string Checksum(const ConstTensorView& tensor) {
  const HostView host(tensor);
  const auto* bytes = static_cast<const std::byte*>(host->raw());
  return fmt::format("{:08x}", Crc32c(std::span(bytes, static_cast<size_t>(tensor.num_bytes()))));
}

// Of what all tensor ranks hold.
std::string ReplicatedWeights(model::GptNeox& model) {
  const auto specs = model.parameters().specs();
  std::string all;
  for (const model::Piece& piece : model::PiecesOfSlice(model.layout(), 0, 1)) {
    const auto placement = specs[static_cast<size_t>(piece.param)].placement;
    if (placement != model::Placement::kReplicated) continue;
    all += Checksum(model.weights().Rows(piece.place, piece.end - piece.begin));
  }
  return all;
}

// `world_rank(r)`: of rank r of the group.
template <typename WorldRank>
void Compare(dist::Communicator& group, const std::string& checksum, const char* what, int64_t step,
             const WorldRank& world_rank) {
  const std::vector<std::string> checksums = GatherTexts(group, checksum, "replica check");
  const std::vector<std::string> nodes = GatherTexts(group, dist::NodeName(), "node names");
  const std::vector<int> odd = dist::RanksThatDiffer(checksums);
  if (odd.empty()) return;
  std::vector<std::string> names;
  const bool majority = 2 * odd.size() < checksums.size();
  for (int r = 0; r < group.size(); ++r) {
    const bool named = !majority || std::find(odd.begin(), odd.end(), r) != odd.end();
    if (named) {
      names.push_back(fmt::format("rank {} (on {})", world_rank(r), nodes[static_cast<size_t>(r)]));
    }
  }
  throw Error(
      ExitCode::kNumerical,
      fmt::format(
          "step {}: the {} of {} differ{}, although these ranks must hold the same bits: "
          "memory or arithmetic of {} is at fault. Leave that machine out and start the "
          "same command again; it resumes from the last checkpoint, made from equal replicas",
          step, what, fmt::join(names, ", "),
          majority ? " from the others'" : " and no majority tells which is wrong",
          majority ? "its machine" : "one of their machines"));
}

}  // namespace

void CheckReplicas(dist::Mesh& mesh, model::GptNeox& model, const AdamW& optimizer, int zero_stage,
                   int64_t step) {
  const int tensor = mesh.tensor().size();
  std::string held = Checksum(model.weights());
  if (zero_stage == 0) {
    for (const ConstTensorView& memory : optimizer.StateMemory()) held += Checksum(memory);
  }
  // Every rank takes part in every comparison before any of them fails.
  std::string problem;
  const auto note = [&](const auto& compare) {
    try {
      compare();
    } catch (const Error& error) {
      if (problem.empty()) problem = error.what();
    }
  };
  note([&] {
    Compare(mesh.data(), held, zero_stage == 0 ? "weights or optimizer states" : "weights", step,
            [&](int r) { return r * tensor + mesh.tensor().rank(); });
  });
  note([&] {
    Compare(mesh.tensor(), ReplicatedWeights(model), "shared weights", step,
            [&](int r) { return mesh.data().rank() * tensor + r; });
  });
  dist::Agree(mesh.world(), [&] {
    if (!problem.empty()) throw Error(ExitCode::kNumerical, problem);
  });
}

}  // namespace sepia::trainer
