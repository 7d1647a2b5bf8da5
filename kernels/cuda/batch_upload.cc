#include "kernels/batch_upload.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/integer.h"
#include "kernels/cuda/batch_stages.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/sep_attention.h"

namespace sepia::kernels {
namespace {

constexpr int64_t kGeometries = 16;  // of an index, at most

// Where the parts of a batch lie in its block.
struct Layout {
  Layout() = default;
  Layout(Shape batch_shape, bool mask, const std::vector<int64_t>& packed)
      : shape(batch_shape), has_mask(mask) {
    const int64_t count = shape.num_elements();
    targets = Take(4 * count);  // behind the tokens
    loss_mask = Take(4 * count);
    if (has_mask) Take(count);
    for (const int64_t p : packed) {
      indexes.push_back(num_bytes);
      Take(static_cast<int64_t>(cuda::DeviceAttentionIndex::Bytes(shape[0], shape[1], p)));
    }
  }

  // Returns the end.
  int64_t Take(int64_t bytes) { return num_bytes += cuda::InArena(static_cast<size_t>(bytes)); }

  Shape shape;
  bool has_mask = false;
  int64_t targets = 0, loss_mask = 0;
  std::vector<int64_t> indexes;
  int64_t num_bytes = 0;
};

size_t MostBytes(const BatchUpload::Limits& limits) {
  const std::vector<int64_t> packed(static_cast<size_t>(limits.num_indexes), limits.seq_length);
  const Layout layout({limits.batch_size, limits.seq_length}, /*mask=*/true, packed);
  return static_cast<size_t>(layout.num_bytes);
}

template <typename T>
void Put(const std::vector<T>& values, std::byte* to) {
  if (!values.empty()) std::memcpy(to, values.data(), values.size() * sizeof(T));
}

}  // namespace

struct BatchUpload::Impl {
  explicit Impl(const Limits& of) : limits(of), stages(cuda::MainStream(), MostBytes(of)) {}

  int64_t PackedOf(const AttentionIndex& index) const {
    if (!limits.round_packed) return index.max_packed();
    const int64_t step = std::max<int64_t>(1, CeilDiv(index.seq_length(), kGeometries));
    return std::min(index.seq_length(), RoundUp(std::max<int64_t>(1, index.max_packed()), step));
  }

  void Pack(const Batch& batch, const Layout& layout, const std::vector<int64_t>& packed,
            std::byte* to) const {
    Put(batch.tokens, to);
    Put(batch.targets, to + layout.targets);
    Put(batch.loss_mask, to + layout.loss_mask);
    for (size_t i = 0; i < packed.size(); ++i) {
      cuda::DeviceAttentionIndex::Pack(*batch.indexes[i], packed[i],
                                       reinterpret_cast<int32_t*>(to + layout.indexes[i]));
    }
  }

  // A batch's layout and indexes: of the staged one until it is loaded.
  struct Description {
    Layout layout;
    std::vector<int64_t> packed;
    // Copies, because ranks that are threads may share a batch.
    std::vector<AttentionIndex> indexes;
  };

  Limits limits;
  cuda::BatchStages stages;
  Description staged, loaded;
  bool is_staged = false;
};

BatchUpload::BatchUpload(const Limits& limits) : impl_(std::make_unique<Impl>(limits)) {}
BatchUpload::~BatchUpload() = default;

bool BatchUpload::is_staged() const { return impl_->is_staged; }

void BatchUpload::Stage(const Batch& batch) {
  Impl& impl = *impl_;
  CHECK(batch.batch_size <= impl.limits.batch_size && batch.seq_length <= impl.limits.seq_length);
  CHECK_EQ(static_cast<int64_t>(batch.indexes.size()), impl.limits.num_indexes);
  Impl::Description& staged = impl.staged;
  staged.packed.clear();
  staged.indexes.clear();
  for (const auto& index : batch.indexes) {
    staged.packed.push_back(impl.PackedOf(*index));
    staged.indexes.push_back(*index);
  }
  staged.layout = Layout(batch.shape(), !batch.loss_mask.empty(), staged.packed);
  impl.stages.Stage(static_cast<size_t>(staged.layout.num_bytes),
                    [&](std::byte* to) { impl.Pack(batch, staged.layout, staged.packed, to); });
  impl.is_staged = true;
}

void BatchUpload::Load() {
  Impl& impl = *impl_;
  impl.stages.Load();
  impl.is_staged = false;
  std::swap(impl.loaded, impl.staged);
  for (size_t i = 0; i < impl.loaded.indexes.size(); ++i) {
    const AttentionIndex& index = impl.loaded.indexes[i];
    const auto* place =
        reinterpret_cast<const int32_t*>(impl.stages.current() + impl.loaded.layout.indexes[i]);
    index.device_copy() = std::make_shared<const cuda::DeviceAttentionIndex>(
        index.batch_size(), index.seq_length(), impl.loaded.packed[i], place);
  }
}

ConstTensorView BatchUpload::tokens() const {
  return {impl_->stages.current(), DType::kInt32, impl_->loaded.layout.shape, Device::kCuda};
}

ConstTensorView BatchUpload::targets() const {
  const Layout& layout = impl_->loaded.layout;
  return {impl_->stages.current() + layout.targets,
          DType::kInt32,
          {layout.shape.num_elements()},
          Device::kCuda};
}

ConstTensorView BatchUpload::loss_mask() const {
  const Layout& layout = impl_->loaded.layout;
  if (!layout.has_mask) return {};
  return {impl_->stages.current() + layout.loss_mask,
          DType::kUInt8,
          {layout.shape.num_elements()},
          Device::kCuda};
}

const AttentionIndex& BatchUpload::index(size_t i) const { return impl_->loaded.indexes[i]; }

const std::vector<int64_t>& BatchUpload::geometry() const { return impl_->loaded.packed; }

}  // namespace sepia::kernels
