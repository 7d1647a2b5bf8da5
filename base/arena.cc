#include "base/arena.h"

#include <algorithm>
#include <utility>

#include "base/device_memory.h"
#include "base/integer.h"

namespace sepia {
namespace {

#ifdef NDEBUG
constexpr bool kFillWithNaN = false;
#else
constexpr bool kFillWithNaN = true;
#endif

// 0xff.. is a NaN in fp32, fp64, bf16 and fp16, and -1 in the integer types.
void FillWithNaN(const Buffer& buffer, int64_t begin, int64_t end) {
  if (!kFillWithNaN || begin == end) return;
  FillBytes(TensorView(buffer.data() + begin, DType::kUInt8, {end - begin}, buffer.device()), 0xff);
}

}  // namespace

Arena::Arena(std::string name) : name_(std::move(name)), counting_(true) {}

Arena::Arena(std::string name, int64_t num_bytes, Device device)
    : name_(std::move(name)), counting_(false), buffer_(num_bytes, name_.c_str(), device) {
  FillWithNaN(buffer_, 0, num_bytes);
}

TensorView Arena::Allocate(const std::string& name, DType dtype, const Shape& shape) {
  const int64_t num_bytes = shape.num_elements() * DTypeSize(dtype);
  const int64_t padded = RoundUp(num_bytes, kAlignment);
  CHECK(counting_ || used_ + padded <= buffer_.size(), "arena {} is full at {}: {} + {} > {}",
        name_, name, used_, padded, buffer_.size());
  void* data = counting_ ? nullptr : buffer_.data() + used_;
  records_.push_back({name, used_, num_bytes});
  used_ += padded;
  high_water_ = std::max(high_water_, used_);
  return TensorView(data, dtype, shape, buffer_.device());
}

void Arena::Release(int64_t mark) {
  CHECK(mark >= 0 && mark <= used_, "arena {}: release {} of {}", name_, mark, used_);
  if (!counting_) FillWithNaN(buffer_, mark, used_);
  used_ = mark;
  while (!records_.empty() && records_.back().offset >= mark) records_.pop_back();
}

}  // namespace sepia
