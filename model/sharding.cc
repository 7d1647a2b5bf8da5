#include "model/sharding.h"

#include <algorithm>

#include "base/check.h"
#include "base/integer.h"

namespace sepia::model {
namespace {

// Elements; a cache line of the narrowest dtype, so that no two ranks or threads share one.
constexpr int64_t kAlignment = 64;

}  // namespace

ParamPart PartOfTensorRank(const ParamSpec& spec, int64_t rank, int64_t size) {
  std::vector<int64_t> dims(spec.shape.dims().begin(), spec.shape.dims().end());
  std::vector<int64_t> offset(dims.size(), 0);
  if (spec.placement != Placement::kReplicated) {
    const size_t cut = spec.placement == Placement::kRow ? 1 : 0;
    CHECK(dims[cut] % size == 0, "{} of {} cut over {} tensor ranks", spec.name, spec.shape, size);
    dims[cut] /= size;
    offset[cut] = rank * dims[cut];
  }
  return {Shape(dims), std::move(offset)};
}

std::vector<ParamPart> Rectangles(const ParamPart& part, int64_t begin, int64_t end) {
  CHECK(begin >= 0 && begin <= end && end <= part.shape.num_elements());
  if (part.shape.rank() == 1) return {{{end - begin}, {part.offset[0] + begin}}};
  CHECK_EQ(part.shape.rank(), 2);
  const int64_t width = part.shape[1];
  std::vector<ParamPart> rectangles;
  while (begin < end) {
    const int64_t row = begin / width;
    const int64_t column = begin % width;
    // Whole rows where possible, else what this row has.
    const int64_t rows = column == 0 ? std::max<int64_t>(1, (end - begin) / width) : 1;
    const int64_t columns = std::min(width - column, end - begin);
    rectangles.push_back({{rows, columns}, {part.offset[0] + row, part.offset[1] + column}});
    begin += rows * columns;
  }
  return rectangles;
}

FlatLayout::FlatLayout(const ParameterTable& table, int64_t tensor_size, int64_t data_size_)
    : data_size(data_size_) {
  const auto specs = table.specs();
  const auto end_of_block = static_cast<int>(BlockParam::kCount);
  const int end = static_cast<int>(specs.size());
  for (int first = 0; first < end;) {
    const bool in_blocks = first > table.embedding() && first < table.final_gamma();
    const int next = first == table.embedding() ? first + 1
                     : in_blocks                ? first + end_of_block
                                                : end;
    const int64_t begin = size;
    for (int i = first; i < next; ++i) {
      shapes.push_back(PartOfTensorRank(specs[static_cast<size_t>(i)], 0, tensor_size).shape);
      begins.push_back(size);
      size = RoundUp(size + shapes.back().num_elements(), kAlignment);
    }
    size = begin + RoundUp(size - begin, kAlignment * data_size);
    buckets.push_back({begin, size, first, next});
    first = next;
  }
}

std::vector<Piece> PiecesOfSlice(const FlatLayout& layout, int64_t slice, int64_t num_slices) {
  std::vector<Piece> pieces;
  int64_t before = 0;  // elements of the slice in earlier buckets
  for (const FlatLayout::Bucket& bucket : layout.buckets) {
    const int64_t length = (bucket.end - bucket.begin) / num_slices;
    CHECK_EQ(length * num_slices, bucket.end - bucket.begin);
    const int64_t slice_begin = bucket.begin + slice * length;
    const int64_t slice_end = slice_begin + length;
    for (int i = bucket.first_param; i < bucket.end_param; ++i) {
      const int64_t start = layout.begins[static_cast<size_t>(i)];
      const int64_t stop = start + layout.shapes[static_cast<size_t>(i)].num_elements();
      const int64_t begin = std::max(start, slice_begin);
      const int64_t end = std::min(stop, slice_end);
      if (begin >= end) continue;
      pieces.push_back({i, begin - start, end - start, begin, before + begin - slice_begin});
    }
    before += length;
  }
  return pieces;
}

}  // namespace sepia::model
