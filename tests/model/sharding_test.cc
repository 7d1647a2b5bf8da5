// Cuts of parameters: parts cover each parameter once, whatever the numbers of ranks.
#include "model/sharding.h"

#include <algorithm>
#include <map>

#include <gtest/gtest.h>

#include "tests/model/model_under_test.h"

namespace sepia::model {
namespace {

using sepia::testing::ConfigFromText;

ModelConfig SmallConfig() {
  return ConfigFromText("vocab_size: 96 hidden_size: 32 num_layers: 2 num_heads: 4");
}

TEST(PartOfTensorRank, CutsByPlacement) {
  const ParamSpec row{.name = "r", .hf_name = "", .shape = {4, 6}, .placement = Placement::kRow};
  EXPECT_EQ(PartOfTensorRank(row, 2, 3).shape, (Shape{4, 2}));
  EXPECT_EQ(PartOfTensorRank(row, 2, 3).offset, (std::vector<int64_t>{0, 4}));
  const ParamSpec column{.name = "c", .hf_name = "", .shape = {4}, .placement = Placement::kColumn};
  EXPECT_EQ(PartOfTensorRank(column, 1, 2).shape, (Shape{2}));
  EXPECT_EQ(PartOfTensorRank(column, 1, 2).offset, (std::vector<int64_t>{2}));
  const ParamSpec all{.name = "a", .hf_name = "", .shape = {5, 7}};
  EXPECT_EQ(PartOfTensorRank(all, 1, 2).shape, all.shape);
  EXPECT_THROW(PartOfTensorRank(row, 0, 4), InternalError);
}

TEST(Rectangles, CoverARangeInOrder) {
  const ParamPart part{{5, 7}, {10, 100}};
  for (int64_t begin = 0; begin <= 35; ++begin) {
    for (int64_t end = begin; end <= 35; ++end) {
      int64_t at = begin;
      const std::vector<ParamPart> rectangles = Rectangles(part, begin, end);
      EXPECT_LE(rectangles.size(), 3u);
      for (const ParamPart& rectangle : rectangles) {
        EXPECT_EQ((rectangle.offset[0] - 10) * 7 + rectangle.offset[1] - 100, at);
        EXPECT_TRUE(rectangle.shape[0] == 1 || rectangle.shape[1] == 7);
        at += rectangle.shape.num_elements();
      }
      EXPECT_EQ(at, end);
    }
  }
  const std::vector<ParamPart> vector = Rectangles({{9}, {20}}, 2, 5);
  ASSERT_EQ(vector.size(), 1u);
  EXPECT_EQ(vector[0].shape, Shape{3});
  EXPECT_EQ(vector[0].offset, std::vector<int64_t>{22});
}

// Any number of data ranks, also ones that divide nothing.
TEST(FlatLayout, SlicesHoldEveryElementOnce) {
  const ParameterTable table(SmallConfig());
  for (const int64_t tensor : {1, 2, 4}) {
    for (const int64_t data : {1, 2, 3, 7}) {
      SCOPED_TRACE(fmt::format("tensor {} x data {}", tensor, data));
      const FlatLayout layout(table, tensor, data);
      EXPECT_EQ(layout.buckets.size(), 4u);  // embedding, two blocks, final LayerNorm with head
      std::vector<int> seen(static_cast<size_t>(layout.size));
      std::map<int, int64_t> elements;
      for (int64_t slice = 0; slice < data; ++slice) {
        int64_t end_of_last = 0;  // pieces follow each other in the slice's own memory too
        for (const Piece& piece : PiecesOfSlice(layout, slice, data)) {
          EXPECT_EQ(layout.begins[static_cast<size_t>(piece.param)] + piece.begin, piece.place);
          EXPECT_GE(piece.in_slice, end_of_last);
          end_of_last = piece.in_slice + piece.end - piece.begin;
          EXPECT_LE(end_of_last, layout.size / data);
          for (int64_t e = piece.begin; e < piece.end; ++e) {
            ++seen[static_cast<size_t>(piece.place + e - piece.begin)];
          }
          elements[piece.param] += piece.end - piece.begin;
        }
      }
      EXPECT_EQ(*std::max_element(seen.begin(), seen.end()), 1);
      for (size_t i = 0; i < layout.shapes.size(); ++i) {
        EXPECT_EQ(elements[static_cast<int>(i)], layout.shapes[i].num_elements());
      }
    }
  }
}

TEST(InitializeParameter, ARectangleHoldsTheValuesOfTheWhole) {
  const ParameterTable table(SmallConfig());
  for (const ParamSpec& spec : table.specs()) {
    std::vector<float> whole(static_cast<size_t>(spec.shape.num_elements()));
    InitializeParameter(spec, 7, 1, TensorView::Of(std::span(whole), spec.shape));
    const ParamPart part = PartOfTensorRank(spec, 1, 2);
    std::vector<float> values(static_cast<size_t>(part.shape.num_elements()));
    InitializeParameter(spec, part.offset, 7, 2, TensorView::Of(std::span(values), part.shape));
    const int last = spec.shape.rank() - 1;
    const int64_t width = part.shape[last];
    const int64_t first =
        last == 0 ? part.offset[0] : part.offset[0] * spec.shape[1] + part.offset[1];
    for (size_t e = 0; e < values.size(); ++e) {
      const auto element = static_cast<int64_t>(e);
      const int64_t at = first + element / width * spec.shape[last] + element % width;
      ASSERT_EQ(values[e], whole[static_cast<size_t>(at)]) << spec.name << " " << e;
    }
  }
}

}  // namespace
}  // namespace sepia::model
