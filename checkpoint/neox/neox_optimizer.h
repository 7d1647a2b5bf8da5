// fp32 masters and Adam moments out of DeepSpeed's ZeRO-1 files: flat buffers, cut over the data
// ranks. Source: DeeperSpeed eb7f5cff runtime/zero/stage1.py (old form), DeepSpeed 0.14.5
// runtime/zero/stage_1_and_2.py, bf16_optimizer.py and utils/zero_to_fp32.py (new form).
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"
#include "checkpoint/neox/neox_dict.h"
#include "checkpoint/neox/neox_files.h"

namespace sepia::checkpoint {

// Pieces of a flat buffer in order, as one.
class FlatVector {
 public:
  // The first `length` elements of a 1-D fp32 tensor.
  void Append(const TensorInFile& piece, int64_t length);
  int64_t size() const { return begins_.empty() ? 0 : end_; }
  // Elements [begin, begin + out.size()).
  void Read(int64_t begin, std::span<float> out) const;

 private:
  std::vector<TensorInFile> pieces_;
  std::vector<int64_t> begins_;
  int64_t end_ = 0;
};

// The optimizer of one tensor-parallel rank. Immutable; reading is thread-safe.
class NeoxOptimizer {
 public:
  // Checks the stage, that no data rank is missing, and that the buffers hold exactly the tensors
  // of param_shapes. Throws BadData.
  explicit NeoxOptimizer(const NeoxRankFiles& files);

  // Names ("2.attention.dense.bias") and shapes of this rank's tensors.
  const std::map<std::string, Shape>& shapes() const { return shapes_; }
  // Elements `part` of this rank's tensor, fp32. `role` is kMaster, kExpAvg or kExpAvgSq.
  void Read(const std::string& name, Role role, const Rectangle& part, std::span<float> out) const;

 private:
  struct Group {
    FlatVector values[3];  // by role
  };
  struct Location {
    size_t group = 0;
    int64_t begin = 0;
  };

  // Lays the tensors of `param_shapes` that belong to the group out one behind the other; returns
  // their elements.
  int64_t Lay(const NeoxDict& param_shapes, size_t group, bool (*belongs)(std::string_view));
  void CheckSizes(const std::string& path, size_t group, int64_t wanted, int64_t max_padding) const;

  std::vector<Group> groups_;
  std::map<std::string, Location> locations_;
  std::map<std::string, Shape> shapes_;
};

}  // namespace sepia::checkpoint
