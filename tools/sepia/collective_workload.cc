#include "tools/sepia/collective_workload.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/check.h"
#include "base/clock.h"
#include "base/integer.h"
#include "dist/agreement.h"
#include "kernels/elementwise.h"
#include "tools/sepia/random_tensor.h"

namespace sepia::tools {
namespace {

constexpr double kLeastSampleSeconds = 2e-3;
constexpr int kMostCallsASample = 1000;

// Small whole numbers: sums over any number of ranks that fits on earth are exact in fp32.
float Contribution(int64_t element, int rank) {
  return static_cast<float>((7 * element + 13 * rank + element / 1021) % 5 - 1);
}

float SumOfContributions(int64_t element, int ranks) {
  float sum = 0;
  for (int r = 0; r < ranks; ++r) sum += Contribution(element, r);
  return sum;
}

// tensor[i] = value(i), rounded to its dtype.
template <typename Value>
void Fill(TensorView tensor, const Value& value) {
  kernels::Context ctx;
  const OwnedTensor wide(DType::kFloat32, tensor.shape());
  const std::span<float> values = wide.view().span<float>();
  for (size_t i = 0; i < values.size(); ++i) values[i] = value(static_cast<int64_t>(i));
  kernels::Cast(ctx, wide, tensor);
}

// Largest of all ranks, in place.
void TakeLargest(dist::Communicator& world, std::vector<double>& values) {
  kernels::Context ctx;
  const auto count = static_cast<int64_t>(values.size());
  world
      .AllReduce(ctx, TensorView::Of(std::span(values), {count}), dist::ReduceOp::kMax,
                 "bench.seconds")
      .Wait();
}

}  // namespace

const char* CollectiveName(trainer::CollectiveKind kind) {
  using trainer::CollectiveKind;
  switch (kind) {
    case CollectiveKind::kAllReduce: return "allreduce";
    case CollectiveKind::kReduceScatter: return "reduce_scatter";
    case CollectiveKind::kAllGather: return "all_gather";
  }
  return "?";
}

CollectiveWorkload::CollectiveWorkload(dist::Communicator& group, trainer::CollectiveKind kind,
                                       int64_t bytes, DType dtype)
    : group_(group), kind_(kind) {
  const int64_t slice = std::max<int64_t>(1, CeilDiv(bytes, DTypeSize(dtype) * group.size()));
  whole_ = OwnedTensor(dtype, {slice * group.size()});
  if (kind != trainer::CollectiveKind::kAllReduce) part_ = OwnedTensor(dtype, {slice});
  // Touched once, so that the first call does not wait for pages.
  Fill(whole_, [](int64_t) { return 0.0f; });
}

void CollectiveWorkload::Run() {
  kernels::Context ctx;
  using trainer::CollectiveKind;
  const char* label = CollectiveName(kind_);
  switch (kind_) {
    case CollectiveKind::kAllReduce:
      group_.AllReduce(ctx, whole_, dist::ReduceOp::kSum, label).Wait();
      break;
    case CollectiveKind::kReduceScatter:
      group_.ReduceScatter(ctx, whole_, part_, dist::ReduceOp::kSum, label).Wait();
      break;
    case CollectiveKind::kAllGather: group_.AllGather(ctx, part_, whole_, label).Wait(); break;
  }
}

void CollectiveWorkload::Verify() {
  const int ranks = group_.size();
  const int rank = group_.rank();
  const bool gathers = kind_ == trainer::CollectiveKind::kAllGather;
  const int64_t slice = whole_.view().dim(0) / ranks;
  Fill(gathers ? part_ : whole_, [&](int64_t i) { return Contribution(i, rank); });
  const int64_t sent_before = group_.traffic().bytes_sent;
  Run();
  const int64_t sent = group_.traffic().bytes_sent - sent_before;
  const TensorView result = kind_ == trainer::CollectiveKind::kReduceScatter ? part_ : whole_;
  const OwnedTensor expected(result.dtype(), result.shape());
  const int64_t first = kind_ == trainer::CollectiveKind::kReduceScatter ? rank * slice : 0;
  Fill(expected, [&](int64_t i) {
    return gathers ? Contribution(i % slice, static_cast<int>(i / slice))
                   : SumOfContributions(first + i, ranks);
  });
  dist::Agree(group_, [&] {
    const OwnedTensor got = Widened(result), want = Widened(expected);
    const auto a = got.view().span<float>(), b = want.view().span<float>();
    const auto differs = std::mismatch(a.begin(), a.end(), b.begin());
    CHECK(differs.first == a.end(), "{} of {} bytes on {} ranks: element {} is {}, not {}",
          CollectiveName(kind_), bytes(), ranks, differs.first - a.begin(), *differs.first,
          *differs.second);
    CHECK_EQ(sent, trainer::BytesSent(kind_, bytes(), ranks));
  });
  Fill(whole_, [](int64_t) { return 0.0f; });  // sums of sums would overflow
}

double CollectiveWorkload::SecondsOf(int calls) {
  group_.Barrier("bench");
  const Timer timer;
  for (int i = 0; i < calls; ++i) Run();
  return timer.Seconds() / calls;
}

std::vector<double> CollectiveWorkload::Measure(dist::Communicator& world, int repeats) {
  std::vector<double> first = {SecondsOf(1), SecondsOf(1)};
  TakeLargest(world, first);
  const double calls = std::ceil(kLeastSampleSeconds / std::max(first[1], 1e-9));
  const int calls_a_sample = static_cast<int>(std::min<double>(kMostCallsASample, calls));
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) seconds.push_back(SecondsOf(calls_a_sample));
  TakeLargest(world, seconds);
  return seconds;
}

double CollectiveWorkload::BusFactor() const {
  const double ranks = group_.size();
  return (kind_ == trainer::CollectiveKind::kAllReduce ? 2 : 1) * (ranks - 1) / ranks;
}

}  // namespace sepia::tools
