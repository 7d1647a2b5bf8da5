// The graphs of causal attention as cuDNN's engines recognise them: the composite form that
// NVIDIA's own front end (cudnn-frontend, scaled_dot_product_flash_attention.h) lowers to.
#include "kernels/cuda/dnn.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/integer.h"
#include "kernels/cuda/dnn_graph.h"

namespace sepia::kernels::cuda {
namespace {

using dnn::Dims;
using dnn::Graph;
using dnn::Plan;
using dnn::Tensor;

// Shapes, strides and element types that both graphs use.
struct Layout {
  explicit Layout(const SepAttentionSize& s)
      : type(s.dtype == DType::kBFloat16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF),
        rows{s.batch_size, s.num_heads, s.seq_length, s.head_dim},
        columns{s.batch_size, s.num_heads, s.head_dim, s.seq_length},
        scores{s.batch_size, s.num_heads, s.seq_length, s.seq_length},
        statistics{s.batch_size, s.num_heads, s.seq_length, 1},
        scale(1.0f / std::sqrt(static_cast<float>(s.head_dim))) {
    const int64_t token = s.num_heads * s.head_dim;
    qkv_rows = {s.seq_length * 3 * token, 3 * s.head_dim, 3 * token, 1};
    qkv_columns = {s.seq_length * 3 * token, 3 * s.head_dim, 1, 3 * token};
    out_rows = {s.seq_length * token, s.head_dim, token, 1};
    statistics_strides = {s.num_heads * s.seq_length, s.seq_length, 1, 1};
    transposed_scores = {s.num_heads * s.seq_length * s.seq_length, s.seq_length * s.seq_length, 1,
                         s.seq_length};
  }
  cudnnDataType_t type;
  Dims rows, columns;  // [T, D] and its transpose
  Dims scores, statistics;
  float scale;
  Dims qkv_rows, qkv_columns, out_rows, statistics_strides, transposed_scores;
};

// The graph under construction with what both passes do to scores.
struct Builder {
  explicit Builder(const Layout& l) : layout(l), scale(graph.Scalar(l.scale)) {}

  const Layout& layout;
  Graph graph;
  Tensor scale;

  Tensor Scores() { return graph.Virtual(CUDNN_DATA_FLOAT, layout.scores); }
  Tensor Statistics() {
    return graph.VirtualStrided(CUDNN_DATA_FLOAT, layout.statistics, layout.statistics_strides);
  }
  Tensor Apply(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y) {
    graph.Pointwise(mode, {.x = x, .y = y, .b = &b});
    return y;
  }
  Tensor Apply(cudnnPointwiseMode_t mode, Tensor x, Tensor y) {
    graph.Pointwise(mode, {.x = x, .y = y});
    return y;
  }
  // scale q k^T.
  Tensor ScaledProduct(Tensor q, Tensor k) {
    const Tensor product = Scores();
    graph.Multiply(q, k, product);
    return Apply(CUDNN_POINTWISE_MUL, product, scale, Scores());
  }
  // What lies above the diagonal vanishes.
  Tensor Masked(Tensor scores) {
    const auto index = [&](int64_t axis) {
      const Tensor numbers = graph.Virtual(CUDNN_DATA_INT32, layout.scores);
      graph.Pointwise(CUDNN_POINTWISE_GEN_INDEX,
                      {.x = scores, .y = numbers, .axis = axis, .precision = CUDNN_DATA_INT32});
      return numbers;
    };
    const Tensor row = index(2), column = index(3);
    const Tensor sees = graph.Virtual(CUDNN_DATA_BOOLEAN, layout.scores);
    graph.Pointwise(CUDNN_POINTWISE_CMP_GE,
                    {.x = row, .y = sees, .b = &column, .precision = CUDNN_DATA_BOOLEAN});
    const Tensor nothing = graph.Scalar(std::numeric_limits<float>::lowest());
    const Tensor masked = Scores();
    graph.Pointwise(CUDNN_POINTWISE_BINARY_SELECT,
                    {.x = scores, .y = masked, .b = &nothing, .t = &sees});
    return masked;
  }
};

struct ForwardUids {
  int64_t q, k, v, out, lse;
};
struct BackwardUids {
  int64_t q, k, v, out, lse, dout, dq, dk, dv;
  int64_t sums;     // [B, H, T] fp32: rows of out * dout
  int64_t dq_sums;  // [B, H, T, D] fp32: summed by atomics; 0 when deterministic
};

Graph ForwardGraph(const Layout& l, ForwardUids& uids) {
  Builder b(l);
  Graph& g = b.graph;
  const Tensor q = g.Real(l.type, l.rows, l.qkv_rows), k = g.Real(l.type, l.columns, l.qkv_columns),
               v = g.Real(l.type, l.rows, l.qkv_rows), out = g.Real(l.type, l.rows, l.out_rows),
               lse = g.Real(CUDNN_DATA_FLOAT, l.statistics, l.statistics_strides);
  uids = {q.uid, k.uid, v.uid, out.uid, lse.uid};
  const Tensor scores = b.Masked(b.ScaledProduct(q, k));
  const Tensor maximum = b.Statistics();
  g.Reduce(CUDNN_REDUCE_TENSOR_MAX, scores, maximum);
  const Tensor below = b.Apply(CUDNN_POINTWISE_SUB, scores, maximum, b.Scores());
  const Tensor weights = b.Apply(CUDNN_POINTWISE_EXP, below, b.Scores());
  const Tensor sum = b.Statistics();
  g.Reduce(CUDNN_REDUCE_TENSOR_ADD, weights, sum);
  const Tensor logarithm = b.Apply(CUDNN_POINTWISE_LOG, sum, b.Statistics());
  b.Apply(CUDNN_POINTWISE_ADD, maximum, logarithm, lse);
  const Tensor probabilities =
      b.Apply(CUDNN_POINTWISE_DIV, weights, sum, g.Virtual(l.type, l.scores));
  g.Multiply(probabilities, v, out);
  return std::move(b.graph);
}

Graph BackwardGraph(const Layout& l, bool deterministic, BackwardUids& uids) {
  Builder b(l);
  Graph& g = b.graph;
  const auto real = [&](const Dims& dims, const Dims& strides) {
    return g.Real(l.type, dims, strides);
  };
  const Tensor q = real(l.rows, l.qkv_rows), k = real(l.columns, l.qkv_columns),
               v = real(l.columns, l.qkv_columns), out = real(l.rows, l.out_rows),
               dout = real(l.rows, l.out_rows), dq = real(l.rows, l.qkv_rows),
               dk = real(l.rows, l.qkv_rows), dv = real(l.rows, l.qkv_rows);
  const Tensor lse = g.Real(CUDNN_DATA_FLOAT, l.statistics, l.statistics_strides),
               sums = g.Real(CUDNN_DATA_FLOAT, l.statistics, l.statistics_strides);
  uids = {q.uid, k.uid, v.uid, out.uid, lse.uid, dout.uid, dq.uid, dk.uid, dv.uid, sums.uid, 0};

  const Tensor products = b.Apply(CUDNN_POINTWISE_MUL, dout, out,
                                  g.VirtualStrided(CUDNN_DATA_FLOAT, l.rows, l.out_rows));
  const Tensor row_sums = b.Statistics();
  g.Reduce(CUDNN_REDUCE_TENSOR_ADD, products, row_sums);
  b.Apply(CUDNN_POINTWISE_MUL, row_sums, g.Scalar(1.0f), sums);

  const Tensor below = b.Apply(CUDNN_POINTWISE_SUB, b.ScaledProduct(q, k), lse, b.Scores());
  const Tensor p = b.Apply(CUDNN_POINTWISE_EXP, b.Masked(below), b.Scores());
  const Tensor p_transposed = g.VirtualStrided(l.type, l.scores, l.transposed_scores);
  g.Reshape(p, p_transposed);
  g.Multiply(p_transposed, dout, dv);

  const Tensor dp = b.Scores();
  g.Multiply(dout, v, dp);
  const Tensor centred = b.Apply(CUDNN_POINTWISE_SUB, dp, sums, b.Scores());
  const Tensor weighted = b.Apply(CUDNN_POINTWISE_MUL, centred, p, b.Scores());
  const Tensor ds = b.Apply(CUDNN_POINTWISE_MUL, weighted, b.scale, g.Virtual(l.type, l.scores));
  const Tensor ds_transposed = g.VirtualStrided(l.type, l.scores, l.transposed_scores);
  g.Reshape(ds, ds_transposed);
  g.Multiply(ds_transposed, q, dk);

  const Tensor k_rows = g.VirtualStrided(l.type, l.rows, l.qkv_rows);
  g.Reshape(k, k_rows);
  if (deterministic) {
    g.Multiply(ds, k_rows, dq);
  } else {
    const auto& [batch, heads, length, dim] = l.rows;
    const Tensor dq_sums =
        g.Real(CUDNN_DATA_FLOAT, l.rows, {heads * length * dim, length * dim, dim, 1});
    uids.dq_sums = dq_sums.uid;
    g.Multiply(ds, k_rows, dq_sums);
    b.Apply(CUDNN_POINTWISE_IDENTITY, dq_sums, dq);
  }
  return std::move(b.graph);
}

dnn::Descriptor DeviceOf(const std::string& json) {
  dnn::Descriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  if (json.empty()) {
    const int32_t number = UsedDevice();
    device.Set(CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, &number);
  } else {
    device.Set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, json.data(),
               static_cast<int64_t>(json.size()));
  }
  device.Finalize();
  return device;
}

void CheckSize(const SepAttentionSize& size) {
  const bool is_half = size.dtype == DType::kBFloat16 || size.dtype == DType::kFloat16;
  if (is_half && size.head_dim % 8 == 0 && size.head_dim <= 128) return;
  throw UserError(
      ExitCode::kEnvironment,
      "cuDNN's attention takes bf16 or f16 and head sizes that are multiples of 8 up to "
      "128, not " +
          std::string(DTypeName(size.dtype)) + " with " + std::to_string(size.head_dim) +
          "; leave it to Sepia's own kernels (kernels.full_attention: OWN)");
}

}  // namespace

struct DnnAttention::Impl {
  Impl(const SepAttentionSize& s, const DnnAttentionOptions& o)
      : size(s),
        options(o),
        layout(s),
        device(DeviceOf(o.device_json)),
        forward(ForwardGraph(layout, forward_uids), "forward attention",
                {device, o.deterministic, o.max_workspace_bytes}),
        backward(BackwardGraph(layout, o.deterministic, backward_uids), "backward attention",
                 {device, o.deterministic, o.max_workspace_bytes}) {
    if (!o.device_json.empty()) return;
    if (const cudnnStatus_t status = cudnnCreate(&handle); status != CUDNN_STATUS_SUCCESS) {
      throw UserError(ExitCode::kEnvironment,
                      std::string("cudnnCreate: ") + cudnnGetErrorString(status));
    }
  }
  ~Impl() {
    if (handle != nullptr) cudnnDestroy(handle);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // fp32 beside cuDNN's own workspace.
  int64_t SumsBytes() const {
    return RoundUp(4 * size.batch_size * size.num_heads * size.seq_length, int64_t{256});
  }
  int64_t DqSumsBytes() const {
    if (options.deterministic) return 0;
    return RoundUp(4 * size.batch_size * size.num_heads * size.seq_length * size.head_dim,
                   int64_t{256});
  }

  void Run(const Plan& plan, Stream& stream, const std::map<int64_t, void*>& pointers,
           void* workspace) {
    if (handle == nullptr) throw DeviceError("a plan for another device", Where::Current());
    cudnnSetStream(handle, static_cast<cudaStream_t>(stream.handle()));
    plan.Run(handle, pointers, workspace);
  }

  SepAttentionSize size;
  DnnAttentionOptions options;
  Layout layout;
  dnn::Descriptor device;
  ForwardUids forward_uids = {};
  BackwardUids backward_uids = {};
  Plan forward, backward;
  cudnnHandle_t handle = nullptr;
};

DnnAttention::DnnAttention(const SepAttentionSize& size, const DnnAttentionOptions& options) {
  CheckSize(size);
  impl_ = std::make_unique<Impl>(size, options);
}
DnnAttention::~DnnAttention() = default;

std::string DnnAttention::KernelName() const {
  return DnnName() + " SDPA " + std::string(DTypeName(impl_->size.dtype)) +
         " D=" + std::to_string(impl_->size.head_dim) +
         (impl_->options.deterministic ? ", deterministic" : ", not deterministic");
}

size_t DnnAttention::ScratchBytes() const {
  return static_cast<size_t>(
      std::max(impl_->forward.workspace_bytes(),
               impl_->SumsBytes() + impl_->DqSumsBytes() + impl_->backward.workspace_bytes()));
}

void DnnAttention::Forward(Stream& stream, const SepAttentionTensors& t, void* scratch) {
  const ForwardUids& uids = impl_->forward_uids;
  auto* qkv = const_cast<uint16_t*>(static_cast<const uint16_t*>(t.qkv));  // NOLINT: only read
  const int64_t dim = impl_->size.head_dim;
  impl_->Run(impl_->forward, stream,
             {{uids.q, qkv},
              {uids.k, qkv + dim},
              {uids.v, qkv + 2 * dim},
              {uids.out, t.out},
              {uids.lse, t.lse}},
             scratch);
}

void DnnAttention::Backward(Stream& stream, const SepAttentionTensors& t, void* scratch) {
  const BackwardUids& uids = impl_->backward_uids;
  auto* qkv = const_cast<uint16_t*>(static_cast<const uint16_t*>(t.qkv));  // NOLINT: only read
  auto* dqkv = static_cast<uint16_t*>(t.dqkv);
  auto* sums = static_cast<std::byte*>(scratch);
  std::byte* dq_sums = sums + impl_->SumsBytes();
  const int64_t dim = impl_->size.head_dim;
  std::map<int64_t, void*> pointers = {
      {uids.q, qkv},     {uids.k, qkv + dim},   {uids.v, qkv + 2 * dim},
      {uids.out, t.out}, {uids.lse, t.lse},     {uids.dout, const_cast<void*>(t.dout)},  // NOLINT
      {uids.dq, dqkv},   {uids.dk, dqkv + dim}, {uids.dv, dqkv + 2 * dim},
      {uids.sums, sums}};
  if (uids.dq_sums != 0) pointers[uids.dq_sums] = dq_sums;
  impl_->Run(impl_->backward, stream, pointers, dq_sums + impl_->DqSumsBytes());
}

std::string DnnName() {
  const size_t version = cudnnGetVersion();
  if (version == 0) return "cuDNN's stand-in on the host";
  // 91900: 9.19.0.
  return "cuDNN " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) +
         "." + std::to_string(version % 100);
}

}  // namespace sepia::kernels::cuda
