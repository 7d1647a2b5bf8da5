#include "kernels/cuda/dnn_graph.h"

#include <utility>

#include "base/error.h"

namespace sepia::kernels::cuda::dnn {
namespace {

constexpr int64_t kAlignment = 16;
constexpr int64_t kMostConfigurations = 16;

std::string Reason(const char* call, cudnnStatus_t status) {
  char details[512] = "";
  cudnnGetLastErrorString(details, sizeof(details));
  std::string reason = std::string(call) + ": " + cudnnGetErrorString(status);
  if (details[0] != '\0') reason += std::string(" (") + details + ")";
  return reason;
}

void Check(const char* call, cudnnStatus_t status, const Where& where = Where::Current()) {
  if (status != CUDNN_STATUS_SUCCESS) throw DeviceError(Reason(call, status), where);
}

std::vector<cudnnBackendDescriptor_t> HandlesOf(const std::vector<Descriptor>& descriptors) {
  std::vector<cudnnBackendDescriptor_t> handles;
  for (const Descriptor& descriptor : descriptors) handles.push_back(descriptor.handle());
  return handles;
}

}  // namespace

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) {
  Check("cudnnBackendCreateDescriptor", cudnnBackendCreateDescriptor(type, &handle_));
}
Descriptor::~Descriptor() {
  if (handle_ != nullptr) cudnnBackendDestroyDescriptor(handle_);
}
void Descriptor::SetBytes(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                          int64_t count, const void* values) {
  Check("cudnnBackendSetAttribute", cudnnBackendSetAttribute(handle_, name, type, count, values));
}
Descriptor& Descriptor::Finalize() {
  Check("cudnnBackendFinalize", cudnnBackendFinalize(handle_));
  return *this;
}
std::string Descriptor::TryFinalize() {
  const cudnnStatus_t status = cudnnBackendFinalize(handle_);
  return status == CUDNN_STATUS_SUCCESS ? "" : Reason("cudnnBackendFinalize", status);
}

Tensor Graph::Add(cudnnDataType_t type, const Dims& dims, const Dims& strides, bool is_virtual,
                  bool is_scalar) {
  const auto uid = static_cast<int64_t>(tensors_.size()) + 1;
  Descriptor tensor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.Set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, &uid)
      .Set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, &type)
      .Set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, dims.data(), 4)
      .Set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, strides.data(), 4)
      .Set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, &kAlignment)
      .Set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, &is_virtual)
      .Set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, &is_scalar)
      .Finalize();
  tensors_.push_back(std::move(tensor));
  return {tensors_.size() - 1, uid};
}

Tensor Graph::Real(cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  return Add(type, dims, strides, false, false);
}
Tensor Graph::Virtual(cudnnDataType_t type, const Dims& dims) {
  const auto& [b, h, rows, columns] = dims;
  return VirtualStrided(type, dims, {h * rows * columns, rows * columns, columns, 1});
}
Tensor Graph::VirtualStrided(cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  return Add(type, dims, strides, true, false);
}
Tensor Graph::Scalar(float value) {
  const Tensor tensor = Add(CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
  scalars_[tensor.uid] = value;
  return tensor;
}

void Graph::Pointwise(cudnnPointwiseMode_t mode, const PointwiseArgs& args) {
  Descriptor pointwise(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  pointwise.Set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, &mode)
      .Set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, &args.precision);
  if (args.axis >= 0) pointwise.Set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, &args.axis);
  pointwise.Finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pointwise)
      .Set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, tensors_[args.x.index])
      .Set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensors_[args.y.index]);
  if (args.b != nullptr) {
    operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensors_[args.b->index]);
  }
  if (args.t != nullptr) {
    operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, tensors_[args.t->index]);
  }
  operation.Finalize();
  helpers_.push_back(std::move(pointwise));
  operations_.push_back(std::move(operation));
}

void Graph::Reduce(cudnnReduceTensorOp_t op, Tensor x, Tensor y) {
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  Descriptor reduction(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.Set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, &op)
      .Set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, &type)
      .Finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction)
      .Set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, tensors_[x.index])
      .Set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, tensors_[y.index])
      .Finalize();
  helpers_.push_back(std::move(reduction));
  operations_.push_back(std::move(operation));
}

void Graph::Multiply(Tensor a, Tensor b, Tensor c) {
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  Descriptor multiply(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  multiply.Set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, &type).Finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_MATMUL_DESC, multiply)
      .Set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, tensors_[a.index])
      .Set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensors_[b.index])
      .Set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensors_[c.index])
      .Finalize();
  helpers_.push_back(std::move(multiply));
  operations_.push_back(std::move(operation));
}

void Graph::Reshape(Tensor x, Tensor y) {
  Descriptor operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensors_[x.index])
      .Set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, tensors_[y.index])
      .Finalize();
  operations_.push_back(std::move(operation));
}

Plan::Plan(Graph graph, const char* what, const PlanRequest& request)
    : graph_(std::move(graph)), operations_(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
  const auto operations = HandlesOf(graph_.operations());
  operations_.Set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations.data(),
                  static_cast<int64_t>(operations.size()));
  std::string reasons = operations_.TryFinalize();
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    if (!chosen_.empty() || !reasons.empty()) break;
    Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristic.Set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations_)
        .Set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, &mode)
        .Set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, request.device);
    if (const std::string reason = heuristic.TryFinalize(); !reason.empty()) {
      reasons = reason;
      break;
    }
    std::vector<Descriptor> found;
    for (int64_t i = 0; i < kMostConfigurations; ++i) {
      found.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    }
    auto handles = HandlesOf(found);
    int64_t count = 0;
    Check("engine configurations",
          cudnnBackendGetAttribute(heuristic.handle(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, kMostConfigurations, &count,
                                   handles.data()));
    std::string tried;
    for (int64_t i = 0; i < count && chosen_.empty(); ++i) {
      const std::string reason = Try(std::move(found[static_cast<size_t>(i)]), request);
      if (!reason.empty()) tried += (tried.empty() ? "" : "; ") + reason;
    }
    if (mode == CUDNN_HEUR_MODE_FALLBACK) reasons = tried.empty() ? "no engine" : tried;
  }
  if (chosen_.empty()) {
    throw UserError(ExitCode::kEnvironment,
                    std::string("cuDNN has no plan for ") + what + ": " + reasons +
                        "; leave full attention to Sepia's own kernels (kernels.full_attention: "
                        "OWN)");
  }
}

std::string Plan::Try(Descriptor configuration, const PlanRequest& request) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t engine_handle = engine.handle();
  int64_t count = 0;
  Check("engine",
        cudnnBackendGetAttribute(configuration.handle(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine_handle));
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  Check("numerical notes",
        cudnnBackendGetAttribute(engine_handle, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                 CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count,
                                 notes));
  for (int64_t i = 0; i < count; ++i) {
    if (request.deterministic && notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) {
      return "an engine is not deterministic";
    }
  }
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.Set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration)
      .Set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, request.device);
  if (std::string reason = plan.TryFinalize(); !reason.empty()) return reason;
  Check("workspace",
        cudnnBackendGetAttribute(plan.handle(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                 CUDNN_TYPE_INT64, 1, &count, &workspace_bytes_));
  if (workspace_bytes_ > request.max_workspace_bytes) {
    return "a plan takes " + std::to_string(workspace_bytes_ >> 20) +
           " MiB of workspace, more than " + std::to_string(request.max_workspace_bytes >> 20);
  }
  chosen_.push_back(std::move(configuration));
  chosen_.push_back(std::move(plan));
  return "";
}

void Plan::Run(cudnnHandle_t handle, const std::map<int64_t, void*>& pointers,
               void* workspace) const {
  std::vector<int64_t> uids;
  std::vector<void*> values;
  for (const auto& [uid, pointer] : pointers) {
    uids.push_back(uid);
    values.push_back(pointer);
  }
  std::map<int64_t, float> scalars = graph_.scalars();
  for (auto& [uid, value] : scalars) {
    uids.push_back(uid);
    values.push_back(&value);
  }
  const auto count = static_cast<int64_t>(uids.size());
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.Set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, uids.data(), count)
      .Set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, values.data(), count)
      .Set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, &workspace)
      .Finalize();
  Check("cudnnBackendExecute", cudnnBackendExecute(handle, chosen_.back().handle(), pack.handle()));
}

}  // namespace sepia::kernels::cuda::dnn
