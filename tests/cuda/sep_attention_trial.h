// One Sep-Attention problem with random inputs on the device, and its comparison with the double
// oracle of tests/oracle/attention.h.
#pragma once

#include <string>
#include <vector>

#include "base/buffer.h"
#include "kernels/cuda/dnn.h"
#include "kernels/cuda/sep_attention.h"
#include "tests/oracle/attention.h"

namespace sepia::kernels::cuda::testing {

struct SepAttentionCase {
  int64_t batch_size = 1;
  int64_t seq_length = 1;
  int64_t num_heads = 1;
  int64_t head_dim = 64;
  AttentionKind kind = AttentionKind::kSep;
  int64_t window = 16;
  int32_t num_initial = 3;
  int32_t stride = 0;
  std::vector<double> density = {0.16};  // of separators, per row (the last one repeats)
  DType dtype = DType::kBFloat16;
  double query_scale = 1;
  bool allow_fallback = false;
  // cuDNN in place of Sepia's kernels; kFull only.
  bool use_dnn = false;
  DnnAttentionOptions dnn = {};

  std::string Describe() const;
};

class SepAttentionTrial {
 public:
  explicit SepAttentionTrial(const SepAttentionCase& c);

  // Forward and backward; every buffer starts poisoned.
  void Compute();
  void ComputeForward();
  void ExpectMatchesOracle() const;
  void ExpectSame(const SepAttentionTrial& other) const;  // bit for bit

  const ::sepia::testing::AttentionProblem& problem() const { return problem_; }
  OwnedTensor& qkv() { return qkv_; }
  const OwnedTensor& out() const { return out_; }
  const OwnedTensor& dqkv() const { return dqkv_; }
  std::string kernel_name() const { return kernel_name_; }

 private:
  void Run(bool backward);
  template <typename Attention>
  void RunWith(Attention& attention, Stream& stream, bool backward);
  void ExpectNear(const char* name, const std::vector<double>& actual,
                  const ::sepia::testing::WithMagnitude& expected,
                  const std::vector<double>& half_error) const;

  SepAttentionCase case_;
  ::sepia::testing::AttentionProblem problem_;
  OwnedTensor qkv_, dout_, out_, dqkv_, lse_;
  std::string kernel_name_;
};

}  // namespace sepia::kernels::cuda::testing
