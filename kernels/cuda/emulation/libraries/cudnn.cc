// The stand-in of cuDNN's graph interface: descriptors hold what they are given; a plan runs its
// operations one after the other on the host in fp32, rounding what is stored or declared in a
// 16-bit format. It knows attention and refuses what cuDNN documents for it (support matrix of
// "Fused attention", sm_80):
//   NOT_SUPPORTED  inputs other than bf16 and f16; head sizes that are no multiple of 8 or beyond
//                  128; a last dimension whose elements are not next to each other; operations it
//                  does not know
//   BAD_PARAM      descriptors used before they are finalized, or finalized without what they need;
//                  pointers that are missing or not aligned to 16 bytes; a missing workspace
// As on Ampere, dq is summed by atomics, not deterministic, when it has an fp32 tensor to be summed
// in, and else the scores' gradients are kept in the workspace.
#include <cudnn_graph.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/libraries/device_range.h"

struct cudnnContext {};

namespace {

using sepia::kernels::cuda::emulation::LoadElement;
using sepia::kernels::cuda::emulation::RequireOnDevice;
using sepia::kernels::cuda::emulation::StoreElement;

thread_local std::string last_error;

cudnnStatus_t Refuse(cudnnStatus_t status, const std::string& why) {
  last_error = why;
  return status;
}

size_t SizeOf(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR: return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    default: return 4;
  }
}

struct Object {
  cudnnBackendDescriptorType_t type;
  std::map<cudnnBackendAttributeName_t, std::vector<char>> attributes;
  bool finalized = false;

  bool Has(cudnnBackendAttributeName_t name) const { return attributes.count(name) > 0; }
  template <typename T>
  std::vector<T> All(cudnnBackendAttributeName_t name) const {
    const std::vector<char>& bytes = attributes.at(name);
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  template <typename T>
  T One(cudnnBackendAttributeName_t name) const {
    T value;
    std::memcpy(&value, attributes.at(name).data(), sizeof(T));
    return value;
  }
  Object* Ref(cudnnBackendAttributeName_t name) const {
    return static_cast<Object*>(One<cudnnBackendDescriptor_t>(name));
  }
};

cudaDataType_t ElementType(const Object& tensor) {
  switch (tensor.One<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE)) {
    case CUDNN_DATA_HALF: return CUDA_R_16F;
    case CUDNN_DATA_BFLOAT16: return CUDA_R_16BF;
    default: return CUDA_R_32F;
  }
}
std::vector<int64_t> Dims(const Object& t) { return t.All<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS); }
std::vector<int64_t> Strides(const Object& t) { return t.All<int64_t>(CUDNN_ATTR_TENSOR_STRIDES); }
bool IsVirtual(const Object& t) { return t.One<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL); }
bool IsScalar(const Object& t) { return t.One<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE); }
int64_t Uid(const Object& t) { return t.One<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID); }

// What every kind of descriptor needs before it can be finalized.
const std::map<cudnnBackendDescriptorType_t, std::vector<cudnnBackendAttributeName_t>>& Needs() {
  static const std::map<cudnnBackendDescriptorType_t, std::vector<cudnnBackendAttributeName_t>>
      needs = {
          {CUDNN_BACKEND_TENSOR_DESCRIPTOR,
           {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS,
            CUDNN_ATTR_TENSOR_STRIDES, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT}},
          {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
           {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
            CUDNN_ATTR_OPERATION_POINTWISE_YDESC}},
          {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
           {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC,
            CUDNN_ATTR_OPERATION_MATMUL_CDESC, CUDNN_ATTR_OPERATION_MATMUL_DESC}},
          {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
           {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, CUDNN_ATTR_OPERATION_REDUCTION_YDESC,
            CUDNN_ATTR_OPERATION_REDUCTION_DESC}},
          {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, {CUDNN_ATTR_OPERATIONGRAPH_OPS}},
          {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
           {CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_ATTR_ENGINEHEUR_MODE,
            CUDNN_ATTR_ENGINEHEUR_DEVICEPROP}},
          {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
           {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP}},
          {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
           {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS}},
      };
  return needs;
}

std::vector<Object*> Operations(const Object& graph) {
  std::vector<Object*> operations;
  for (void* handle : graph.All<cudnnBackendDescriptor_t>(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
    operations.push_back(static_cast<Object*>(handle));
  }
  return operations;
}

std::vector<Object*> TensorsOf(const Object& operation) {
  std::vector<Object*> tensors;
  for (const auto& [name, bytes] : operation.attributes) {
    if (bytes.size() != sizeof(void*)) continue;
    Object* object = operation.Ref(name);
    if (object->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) tensors.push_back(object);
  }
  return tensors;
}

// The graph that a configuration or plan is for.
Object* GraphOf(const Object& object) { return object.Ref(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH); }

bool SumsDqByAtomics(const Object& graph) {
  for (const Object* operation : Operations(graph)) {
    if (operation->type != CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR) continue;
    const Object& c = *operation->Ref(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    if (!IsVirtual(c) && ElementType(c) == CUDA_R_32F) return true;
  }
  return false;
}

// Scores [B, H, T, T] if this is a backward graph.
int64_t BackwardScores(const Object& graph) {
  for (const Object* operation : Operations(graph)) {
    if (operation->type != CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR) continue;
    const auto dims = Dims(*operation->Ref(CUDNN_ATTR_OPERATION_RESHAPE_XDESC));
    if (dims[2] == dims[3]) return dims[0] * dims[1] * dims[2] * dims[3];
  }
  return 0;
}

cudnnStatus_t CheckAttention(const Object& graph) {
  for (const Object* operation : Operations(graph)) {
    for (const Object* tensor : TensorsOf(*operation)) {
      const auto dims = Dims(*tensor), strides = Strides(*tensor);
      if (IsVirtual(*tensor) || IsScalar(*tensor) || dims[3] == 1) continue;
      const bool is_row = strides[3] == 1;
      if (!is_row && strides[2] != 1) {
        return Refuse(CUDNN_STATUS_NOT_SUPPORTED, "elements of a head are not contiguous");
      }
      const int64_t head = is_row ? dims[3] : dims[2];
      if (head % 8 != 0 || head > 128) {
        return Refuse(CUDNN_STATUS_NOT_SUPPORTED, "head size " + std::to_string(head));
      }
      if (operation->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR &&
          ElementType(*tensor) == CUDA_R_32F &&
          tensor != operation->Ref(CUDNN_ATTR_OPERATION_MATMUL_CDESC)) {
        return Refuse(CUDNN_STATUS_NOT_SUPPORTED, "attention takes bf16 and f16");
      }
    }
  }
  return CUDNN_STATUS_SUCCESS;
}

// Elements of a tensor in row-major order, in fp32.
using Values = std::vector<float>;

struct Run {
  std::map<int64_t, void*> pointers;
  std::map<int64_t, Values> values;  // by uid

  static void ForEach(const Object& tensor, const std::function<void(int64_t, int64_t)>& fn) {
    const auto dims = Dims(tensor), strides = Strides(tensor);
    int64_t index = 0;
    for (int64_t b = 0; b < dims[0]; ++b)
      for (int64_t h = 0; h < dims[1]; ++h)
        for (int64_t i = 0; i < dims[2]; ++i)
          for (int64_t j = 0; j < dims[3]; ++j)
            fn(index++, b * strides[0] + h * strides[1] + i * strides[2] + j * strides[3]);
  }
  static size_t Count(const Object& tensor) {
    const auto dims = Dims(tensor);
    return static_cast<size_t>(dims[0] * dims[1] * dims[2] * dims[3]);
  }

  const Values& Get(const Object& tensor) {
    const auto found = values.find(Uid(tensor));
    if (found != values.end()) return found->second;
    Values& loaded = values[Uid(tensor)];
    loaded.resize(Count(tensor));
    const void* from = pointers.at(Uid(tensor));
    ForEach(tensor, [&](int64_t index, int64_t offset) {
      const cudaDataType_t type = ElementType(tensor);
      if (!IsScalar(tensor)) CheckElement(type, from, offset);
      loaded[static_cast<size_t>(index)] = LoadElement(type, from, offset);
    });
    return loaded;
  }

  // Stores real tensors and rounds virtual ones to their dtype.
  void Put(const Object& tensor, Values result) {
    const cudaDataType_t type = ElementType(tensor);
    for (float& value : result) {
      uint32_t bits = 0;
      StoreElement(type, &bits, 0, value);
      value = LoadElement(type, &bits, 0);
    }
    if (!IsVirtual(tensor)) {
      void* to = pointers.at(Uid(tensor));
      ForEach(tensor, [&](int64_t index, int64_t offset) {
        CheckElement(type, to, offset);
        StoreElement(type, to, offset, result[static_cast<size_t>(index)]);
      });
    }
    values[Uid(tensor)] = std::move(result);
  }

  static void CheckElement(cudaDataType_t type, const void* base, int64_t offset) {
    const size_t size = type == CUDA_R_32F ? 4 : 2;
    RequireOnDevice("cudnnBackendExecute", "a tensor",
                    static_cast<const char*>(base) + offset * static_cast<int64_t>(size), size);
  }

  void Multiply(const Object& operation) {
    const Object &a = *operation.Ref(CUDNN_ATTR_OPERATION_MATMUL_ADESC),
                 &b = *operation.Ref(CUDNN_ATTR_OPERATION_MATMUL_BDESC),
                 &c = *operation.Ref(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    const Values &left = Get(a), &right = Get(b);
    const auto dims = Dims(c);
    const auto rows = static_cast<size_t>(dims[2]), columns = static_cast<size_t>(dims[3]),
               depth = static_cast<size_t>(Dims(a)[3]);
    Values result(Count(c), 0.0f);
    for (size_t m = 0; m < static_cast<size_t>(dims[0] * dims[1]); ++m) {
      for (size_t i = 0; i < rows; ++i) {
        for (size_t k = 0; k < depth; ++k) {
          const float factor = left[(m * rows + i) * depth + k];
          const float* row = right.data() + (m * depth + k) * columns;
          float* sum = result.data() + (m * rows + i) * columns;
          for (size_t j = 0; j < columns; ++j) sum[j] += factor * row[j];
        }
      }
    }
    Put(c, std::move(result));
  }

  void Reduce(const Object& operation) {
    const Object &x = *operation.Ref(CUDNN_ATTR_OPERATION_REDUCTION_XDESC),
                 &y = *operation.Ref(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    const bool is_sum =
        operation.Ref(CUDNN_ATTR_OPERATION_REDUCTION_DESC)
            ->One<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_ADD;
    const Values& values_of_x = Get(x);
    const auto length = static_cast<size_t>(Dims(x)[3]);
    Values result(Count(y), is_sum ? 0.0f : -INFINITY);
    for (size_t i = 0; i < values_of_x.size(); ++i) {
      float& to = result[i / length];
      to = is_sum ? to + values_of_x[i] : std::max(to, values_of_x[i]);
    }
    Put(y, std::move(result));
  }

  // y sees the memory of x through strides in which the last two dimensions are exchanged.
  void Reshape(const Object& operation) {
    const Object &x = *operation.Ref(CUDNN_ATTR_OPERATION_RESHAPE_XDESC),
                 &y = *operation.Ref(CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    const Values& from = Get(x);
    const auto dims = Dims(y);
    const auto rows = static_cast<size_t>(dims[2]), columns = static_cast<size_t>(dims[3]);
    Values result(Count(y));
    for (size_t i = 0; i < result.size(); ++i) {
      const size_t column = i % columns, row = i / columns % rows, m = i / columns / rows;
      result[i] = from[(m * columns + column) * rows + row];
    }
    Put(y, std::move(result));
  }

  // The element of a tensor that goes with element `index` of y: dimensions of 1 repeat.
  static size_t Broadcast(const Object& tensor, const std::vector<int64_t>& dims, size_t index) {
    const auto own = Dims(tensor);
    size_t position = 0, stride = 1;
    for (size_t d = 4; d-- > 0;) {
      const size_t coordinate = index % static_cast<size_t>(dims[d]);
      index /= static_cast<size_t>(dims[d]);
      if (own[d] != 1) position += coordinate * stride;
      stride *= static_cast<size_t>(own[d]);
    }
    return position;
  }

  void Pointwise(const Object& operation) {
    const Object &x = *operation.Ref(CUDNN_ATTR_OPERATION_POINTWISE_XDESC),
                 &y = *operation.Ref(CUDNN_ATTR_OPERATION_POINTWISE_YDESC),
                 &how = *operation.Ref(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = how.One<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    const bool has_b = operation.Has(CUDNN_ATTR_OPERATION_POINTWISE_BDESC),
               has_t = operation.Has(CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const Object* b = has_b ? operation.Ref(CUDNN_ATTR_OPERATION_POINTWISE_BDESC) : nullptr;
    const Object* t = has_t ? operation.Ref(CUDNN_ATTR_OPERATION_POINTWISE_TDESC) : nullptr;
    const auto dims = Dims(y);
    const auto columns = static_cast<size_t>(dims[3]), rows = static_cast<size_t>(dims[2]);
    Get(x);
    if (b != nullptr) Get(*b);
    if (t != nullptr) Get(*t);
    Values result(Count(y));
    for (size_t i = 0; i < result.size(); ++i) {
      const float left = values[Uid(x)][Broadcast(x, dims, i)];
      const float right = b == nullptr ? 0 : values[Uid(*b)][Broadcast(*b, dims, i)];
      switch (mode) {
        case CUDNN_POINTWISE_ADD: result[i] = left + right; break;
        case CUDNN_POINTWISE_MUL: result[i] = left * right; break;
        case CUDNN_POINTWISE_DIV: result[i] = left / right; break;
        case CUDNN_POINTWISE_SUB: result[i] = left - right; break;
        case CUDNN_POINTWISE_EXP: result[i] = std::exp(left); break;
        case CUDNN_POINTWISE_LOG: result[i] = std::log(left); break;
        case CUDNN_POINTWISE_IDENTITY: result[i] = left; break;
        case CUDNN_POINTWISE_CMP_GE: result[i] = left >= right ? 1.0f : 0.0f; break;
        case CUDNN_POINTWISE_GEN_INDEX:
          result[i] = static_cast<float>(
              how.One<int64_t>(CUDNN_ATTR_POINTWISE_AXIS) == 3 ? i % columns : i / columns % rows);
          break;
        case CUDNN_POINTWISE_BINARY_SELECT:
          result[i] = values[Uid(*t)][Broadcast(*t, dims, i)] != 0 ? left : right;
          break;
      }
    }
    Put(y, std::move(result));
  }

  void All(const Object& graph) {
    for (const Object* operation : Operations(graph)) {
      switch (operation->type) {
        case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: Multiply(*operation); break;
        case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: Reduce(*operation); break;
        case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR: Reshape(*operation); break;
        default: Pointwise(*operation);
      }
    }
  }
};

cudnnStatus_t CheckPointers(const Object& graph, const std::map<int64_t, void*>& pointers) {
  for (const Object* operation : Operations(graph)) {
    for (const Object* tensor : TensorsOf(*operation)) {
      if (IsVirtual(*tensor)) continue;
      const auto found = pointers.find(Uid(*tensor));
      if (found == pointers.end() || found->second == nullptr) {
        return Refuse(CUDNN_STATUS_BAD_PARAM, "a tensor has no pointer");
      }
      const auto alignment =
          static_cast<size_t>(tensor->One<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT));
      if (!IsScalar(*tensor) && reinterpret_cast<uintptr_t>(found->second) % alignment != 0) {
        return Refuse(CUDNN_STATUS_BAD_PARAM, "a pointer is not aligned as its tensor says");
      }
    }
  }
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace

size_t cudnnGetVersion() { return 0; }
const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    default: return "CUDNN_STATUS_NOT_SUPPORTED";
  }
}
void cudnnGetLastErrorString(char* message, size_t size) {
  if (size == 0) return;
  const size_t length = std::min(size - 1, last_error.size());
  std::memcpy(message, last_error.data(), length);
  message[length] = '\0';
}
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  *handle = new cudnnContext;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t* descriptor) {
  auto* object = new Object{.type = type, .attributes = {}};
  if (type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) {
    object->attributes[CUDNN_ATTR_TENSOR_IS_VIRTUAL] = {0};
    object->attributes[CUDNN_ATTR_TENSOR_IS_BY_VALUE] = {0};
  }
  *descriptor = object;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Object*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void* values) {
  auto& object = *static_cast<Object*>(descriptor);
  if (object.finalized) return Refuse(CUDNN_STATUS_BAD_PARAM, "the descriptor is finalized");
  if (values == nullptr || count < 1) return Refuse(CUDNN_STATUS_BAD_PARAM, "no values");
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    for (int64_t i = 0; i < count; ++i) {
      const auto* part = static_cast<Object* const*>(values)[i];
      if (!part->finalized && part->type != CUDNN_BACKEND_ENGINECFG_DESCRIPTOR) {
        return Refuse(CUDNN_STATUS_BAD_PARAM, "a part is not finalized");
      }
    }
  }
  const auto* begin = static_cast<const char*>(values);
  object.attributes[name].assign(begin, begin + count * static_cast<int64_t>(SizeOf(type)));
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  auto& object = *static_cast<Object*>(descriptor);
  last_error.clear();
  if (const auto needs = Needs().find(object.type); needs != Needs().end()) {
    for (const cudnnBackendAttributeName_t name : needs->second) {
      if (!object.Has(name)) {
        return Refuse(CUDNN_STATUS_BAD_PARAM, "attribute " + std::to_string(name) + " is missing");
      }
    }
  }
  if (object.type == CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR &&
      (!object.Has(CUDNN_ATTR_DEVICEPROP_DEVICE_ID) ||
       object.One<int32_t>(CUDNN_ATTR_DEVICEPROP_DEVICE_ID) != 0)) {
    return Refuse(CUDNN_STATUS_NOT_SUPPORTED, "there is one emulated device, number 0");
  }
  if (object.type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
    const Object& graph = *GraphOf(*object.Ref(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
    if (const cudnnStatus_t status = CheckAttention(graph); status != CUDNN_STATUS_SUCCESS) {
      return status;
    }
  }
  object.finalized = true;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, int64_t room, int64_t* count,
                                       void* values) {
  auto& object = *static_cast<Object*>(descriptor);
  if (room < 1) return Refuse(CUDNN_STATUS_BAD_PARAM, "no room");
  const auto remember_graph = [](Object* to, Object* graph) {
    auto& bytes = to->attributes[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH];
    bytes.resize(sizeof(graph));
    std::memcpy(bytes.data(), &graph, sizeof(graph));
    to->finalized = true;
  };
  *count = 1;
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS:
    case CUDNN_ATTR_ENGINECFG_ENGINE:
      remember_graph(*static_cast<Object**>(values), GraphOf(object));
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE: {
      auto* notes = static_cast<cudnnBackendNumericalNote_t*>(values);
      notes[0] = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
      if (room > 1 && SumsDqByAtomics(*GraphOf(object))) {
        notes[(*count)++] = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
      }
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: {
      const Object& graph = *GraphOf(*object.Ref(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
      *static_cast<int64_t*>(values) = SumsDqByAtomics(graph) ? 0 : 2 * BackwardScores(graph);
      return CUDNN_STATUS_SUCCESS;
    }
    default: return Refuse(CUDNN_STATUS_NOT_SUPPORTED, "an attribute that cannot be read");
  }
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack) {
  const auto &planned = *static_cast<Object*>(plan), &given = *static_cast<Object*>(pack);
  if (handle == nullptr || !planned.finalized || !given.finalized) {
    return Refuse(CUDNN_STATUS_BAD_PARAM, "something is not finalized");
  }
  const Object& graph = *GraphOf(*planned.Ref(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
  const auto uids = given.All<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const auto pointers = given.All<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  Run run;
  for (size_t i = 0; i < uids.size(); ++i) run.pointers[uids[i]] = pointers[i];
  if (const cudnnStatus_t status = CheckPointers(graph, run.pointers);
      status != CUDNN_STATUS_SUCCESS) {
    return status;
  }
  const int64_t workspace_bytes = SumsDqByAtomics(graph) ? 0 : 2 * BackwardScores(graph);
  if (workspace_bytes > 0) {
    const void* workspace = given.Has(CUDNN_ATTR_VARIANT_PACK_WORKSPACE)
                                ? given.One<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE)
                                : nullptr;
    if (workspace == nullptr) return Refuse(CUDNN_STATUS_BAD_PARAM, "no workspace");
    RequireOnDevice("cudnnBackendExecute", "the workspace", workspace,
                    static_cast<size_t>(workspace_bytes));
  }
  run.All(graph);
  return CUDNN_STATUS_SUCCESS;
}
