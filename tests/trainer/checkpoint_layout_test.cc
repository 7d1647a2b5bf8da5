// How tensors are cut into chunks, by arithmetic on real sizes: what a rank of one layout must read
// of what the ranks of another one wrote.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "checkpoint/import/hf_layout.h"
#include "checkpoint/neox/neox_layout.h"
#include "checkpoint/shard_file.h"
#include "model/sharding.h"
#include "tests/trainer/rank_layout.h"
#include "trainer/config.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

TEST(CheckpointLayoutTest, ColumnsAreThoseOfGptNeox) {
  const LoadedConfig config =
      LoadConfigText("", "test", {"model.preset=\"pythia-160m\""}, {.for_training = false});
  for (const auto& tensor : checkpoint::NeoxTensors(config.resolved->model())) {
    EXPECT_EQ(checkpoint::IsCutAlongColumns(tensor.hf_name),
              tensor.merge == checkpoint::TensorMerge::kColumns)
        << tensor.hf_name;
  }
}

struct Share {
  int64_t own = 0;   // elements of the rank
  int64_t read = 0;  // elements of the chunks that it must read
};

std::vector<checkpoint::Rectangle> PartsOf(const model::ParameterTable& table, int param,
                                           const Layout& layout, int rank) {
  const model::ParamSpec& spec = table.specs()[static_cast<size_t>(param)];
  const model::FlatLayout flat(table, layout.tensor, layout.data);
  const int slices = layout.zero == 0 ? 1 : layout.data;
  const model::ParamPart part = PartOfTensorRank(spec, rank % layout.tensor, layout.tensor);
  std::vector<checkpoint::Rectangle> rectangles;
  for (const model::Piece& piece :
       PiecesOfSlice(flat, slices == 1 ? 0 : rank / layout.tensor, slices)) {
    if (piece.param != param) continue;
    for (const model::ParamPart& r : Rectangles(part, piece.begin, piece.end)) {
      rectangles.push_back({r.offset, r.shape});
    }
  }
  return rectangles;
}

// Of the real sizes: what rank `rank` of `target` reads of what the ranks of `source` wrote.
Share ShareOf(const model::ParameterTable& table, const Layout& source, const Layout& target,
              int rank) {
  Share share;
  // Every rank saves its slice, whatever the stage.
  const Layout writers{source.tensor, source.data, 1};
  for (size_t p = 0; p < table.specs().size(); ++p) {
    const model::ParamSpec& spec = table.specs()[p];
    const auto wanted = PartsOf(table, static_cast<int>(p), target, rank);
    for (const checkpoint::Rectangle& part : wanted) share.own += part.num_elements();
    for (int writer = 0; writer < source.ranks(); ++writer) {
      const bool speaks =
          spec.placement != model::Placement::kReplicated || writer % source.tensor == 0;
      if (!speaks) continue;
      for (const auto& part : PartsOf(table, static_cast<int>(p), writers, writer)) {
        for (const auto& chunk :
             checkpoint::CutIntoChunks(spec.hf_name, spec.shape, part, DType::kFloat32)) {
          const bool touched = std::any_of(wanted.begin(), wanted.end(),
                                           [&](const auto& w) { return chunk.Overlaps(w); });
          if (touched) share.read += chunk.num_elements();
        }
      }
    }
  }
  return share;
}

TEST(CheckpointLayoutTest, ARankOfEightReadsLittleMoreThanItsShare) {
  double worst = 0;
  for (const char* preset : {"pythia-160m", "pythia-410m"}) {
    const LoadedConfig config = LoadConfigText(
        "", "test", {fmt::format("model.preset=\"{}\"", preset)}, {.for_training = false});
    const model::ParameterTable table(config.settings.model);
    for (const Layout& source : {Layout{1, 1, 0}, {2, 2, 1}, {1, 8, 1}, {4, 1, 0}}) {
      for (const Layout& target : {Layout{1, 8, 1}, {2, 4, 1}, {4, 2, 1}, {4, 2, 0}}) {
        for (const int rank : {0, 3, 7}) {
          const Share share = ShareOf(table, source, target, rank);
          const double ratio = static_cast<double>(share.read) / static_cast<double>(share.own);
          EXPECT_GE(ratio, 1);
          EXPECT_LE(ratio, 1.1) << preset << ": " << source.Name() << " -> " << target.Name()
                                << ", rank " << rank;
          worst = std::max(worst, ratio);
        }
      }
    }
  }
  std::printf("a rank of eight reads at most %.3f of its share\n", worst);
}

}  // namespace
}  // namespace sepia::trainer
