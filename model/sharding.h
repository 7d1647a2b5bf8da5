// How parameters are cut: over tensor ranks by their placement, and the shard of a tensor rank, as
// one flat vector, over data ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "base/shape.h"
#include "model/parameters.h"

namespace sepia::model {

// A rectangle of a parameter, in coordinates of the whole (unsharded) parameter.
struct ParamPart {
  Shape shape;
  std::vector<int64_t> offset;  // one per dimension
};

// What tensor rank `rank` of `size` holds. CHECK-fails when `size` does not divide the parameter.
ParamPart PartOfTensorRank(const ParamSpec& spec, int64_t rank, int64_t size);

// Elements [begin, end) of `part` in row-major order, as at most three rectangles in that order.
std::vector<ParamPart> Rectangles(const ParamPart& part, int64_t begin, int64_t end);

// The shard of a tensor rank as one vector: every parameter in table order, with padding. Weights,
// gradients and optimizer states share the layout, so that a range of the vector means the same
// elements in all of them.
//
// The vector is a sequence of buckets, one for each group of parameters whose gradients become
// ready together. A bucket is a multiple of the number of data ranks: its r-th slice is rank r's.
struct FlatLayout {
  struct Bucket {
    int64_t begin, end;  // elements of the vector
    int first_param, end_param;
  };

  FlatLayout(const ParameterTable& table, int64_t tensor_size, int64_t data_size);

  std::vector<Shape> shapes;    // by parameter
  std::vector<int64_t> begins;  // by parameter: place of its first element
  std::vector<Bucket> buckets;
  int64_t size = 0;  // elements, padding included
  int64_t data_size;
};

// A contiguous range of one parameter's shard.
struct Piece {
  int param;
  int64_t begin, end;  // elements of the shard
  int64_t place;       // of `begin` in the flat vector
  int64_t in_slice;    // of `begin` among the slice's elements, all buckets one after the other
};

// The pieces in slice `slice` of `num_slices` of every bucket, in order of the vector.
std::vector<Piece> PiecesOfSlice(const FlatLayout& layout, int64_t slice, int64_t num_slices);

}  // namespace sepia::model
