// Single-threaded products through oneDNN 2 or 3: the only file that includes its headers.
//
// oneDNN plans a primitive for the number of OpenMP threads that it sees, so primitives are made
// and run with that number at one; the loop over tiles is ours (gemm.cc).
#include <memory>
#include <mutex>
#include <unordered_map>

#include <fmt/core.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/buffer.h"
#include "base/check.h"
#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/widened_product.h"

namespace sepia::kernels::cpu {
namespace {

class SingleThreadScope {
 public:
  SingleThreadScope() : previous_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreadScope() { omp_set_num_threads(previous_); }
  SingleThreadScope(const SingleThreadScope&) = delete;
  SingleThreadScope& operator=(const SingleThreadScope&) = delete;

 private:
  int previous_;  // a property of the calling thread, as OpenMP defines it
};

const dnnl::engine& CpuEngine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// Everything that a primitive depends on.
struct PrimitiveKey {
  int64_t m, n, k, a_row_stride, a_col_stride, b_row_stride, b_col_stride, c_row_stride;
  DType dtype;
  bool accumulate;

  friend bool operator==(const PrimitiveKey&, const PrimitiveKey&) = default;
};

struct PrimitiveKeyHash {
  size_t operator()(const PrimitiveKey& key) const {
    uint64_t hash = 1469598103934665603u;  // FNV-1a over the fields
    for (const int64_t field : {key.m, key.n, key.k, key.a_row_stride, key.a_col_stride,
                                key.b_row_stride, key.b_col_stride, key.c_row_stride,
                                static_cast<int64_t>(key.dtype), int64_t{key.accumulate}}) {
      hash = (hash ^ static_cast<uint64_t>(field)) * 1099511628211u;
    }
    return static_cast<size_t>(hash ^ (hash >> 32));
  }
};

struct CachedPrimitive {
  dnnl::memory::desc a, b, c, scratchpad;
  dnnl::matmul matmul;
};

dnnl::matmul::primitive_desc MakeDescriptor(const CachedPrimitive& entry,
                                            const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(CpuEngine(), entry.a, entry.b, entry.c, attributes);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(entry.a, entry.b, entry.c), attributes,
                                      CpuEngine());
#endif
}

std::shared_ptr<const CachedPrimitive> MakePrimitive(const PrimitiveKey& key) {
  using Type = dnnl::memory::data_type;
  const Type type = key.dtype == DType::kBFloat16 ? Type::bf16 : Type::f32;
  auto entry = std::make_shared<CachedPrimitive>();
  entry->a = {{key.m, key.k}, type, {key.a_row_stride, key.a_col_stride}};
  entry->b = {{key.k, key.n}, type, {key.b_row_stride, key.b_col_stride}};
  entry->c = {{key.m, key.n}, Type::f32, {key.c_row_stride, 1}};
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::primitive_desc descriptor = MakeDescriptor(*entry, attributes);
  entry->scratchpad = descriptor.scratchpad_desc();
  entry->matmul = dnnl::matmul(descriptor);
  return entry;
}

// Creation takes 0.1 to 0.7 ms. Shared by all threads; primitives are immutable.
std::shared_ptr<const CachedPrimitive> FindPrimitive(const PrimitiveKey& key) {
  // A training step needs some dozens; generation makes new ones for every prompt length.
  constexpr size_t kMaxEntries = 4096;
  static std::mutex mutex;
  static std::unordered_map<PrimitiveKey, std::shared_ptr<const CachedPrimitive>, PrimitiveKeyHash>
      cache;
  const std::lock_guard lock(mutex);
  const auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  if (cache.size() >= kMaxEntries) cache.clear();
  auto entry = MakePrimitive(key);
  cache.emplace(key, entry);
  return entry;
}

// Workspace of the running primitive; grows to the largest one that this thread has met.
void* ThreadScratchpad(size_t num_bytes) {
  static thread_local Buffer buffer;
  if (static_cast<size_t>(buffer.size()) < num_bytes) {
    buffer = Buffer(static_cast<int64_t>(num_bytes), "oneDNN scratchpad");
  }
  return buffer.data();
}

void Execute(const TileProduct& product) {
  const SingleThreadScope single_thread;
  const auto entry =
      FindPrimitive({product.m, product.n, product.k, product.a.row_stride, product.a.col_stride,
                     product.b.row_stride, product.b.col_stride, product.c_row_stride,
                     product.dtype, product.accumulate});
  const dnnl::engine& engine = CpuEngine();
  static thread_local dnnl::stream stream(engine);
  const auto memory = [&](const dnnl::memory::desc& desc, const void* data) {
    return dnnl::memory(desc, engine, const_cast<void*>(data));
  };
  entry->matmul.execute(
      stream, {{DNNL_ARG_SRC, memory(entry->a, product.a.data)},
               {DNNL_ARG_WEIGHTS, memory(entry->b, product.b.data)},
               {DNNL_ARG_DST, memory(entry->c, product.c)},
               {DNNL_ARG_SCRATCHPAD,
                memory(entry->scratchpad, ThreadScratchpad(entry->scratchpad.get_size()))}});
}

bool HasBFloat16() {
  static const bool has = [] {
    const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    const auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    return (isa & needed) == needed;
  }();
  return has;
}

bool IsNative(DType dtype) {
  return dtype == DType::kFloat32 || (dtype == DType::kBFloat16 && HasBFloat16());
}

const char* IsaName() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::avx2: return "avx2";
    case dnnl::cpu_isa::avx2_vnni: return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core: return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni: return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16: return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx: return "avx512_core_amx";
    default: return "other isa";
  }
}

}  // namespace

void MultiplyTile(const TileProduct& product) {
  try {
    if (IsNative(product.dtype)) return Execute(product);
    MultiplyWidened(product, Execute);
  } catch (const dnnl::error& error) {
    CHECK(false, "oneDNN refused a {} product of {} x {} x {}: {}", DTypeName(product.dtype),
          product.m, product.n, product.k, error.what());
  }
}

std::string TileBackendName(DType dtype) {
  const dnnl_version_t& version = *dnnl_version();
  return fmt::format("onednn {}.{}.{} {}{}", version.major, version.minor, version.patch, IsaName(),
                     IsNative(dtype) ? "" : ", widened to f32");
}

}  // namespace sepia::kernels::cpu
