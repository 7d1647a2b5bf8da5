// The stand-in of cuDNN's graph interface: descriptors hold what they are given; cudnn_run.cc runs
// a plan's operations. It knows attention and refuses what cuDNN documents for it (support matrix
// of "Fused attention", sm_80):
//   NOT_SUPPORTED  inputs other than bf16 and f16; head sizes that are no multiple of 8 or beyond
//                  128; a last dimension whose elements are not next to each other; operations it
//                  does not know
//   BAD_PARAM      descriptors used before they are finalized, or finalized without what they need;
//                  pointers that are missing or not aligned to 16 bytes; a missing workspace
// As on Ampere, dq is summed by atomics, not deterministic, when it has an fp32 tensor to be summed
// in, and else the scores' gradients are kept in the workspace.
#include <cudnn_graph.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/libraries/cudnn_objects.h"
#include "kernels/cuda/emulation/libraries/device_range.h"
#include "kernels/cuda/emulation/streams.h"

struct cudnnContext {
  cudaStream_t stream = nullptr;
};

namespace {

using namespace sepia::kernels::cuda::emulation::cudnn;  // NOLINT: one program in two files
using sepia::kernels::cuda::emulation::RequireOnDevice;
using sepia::kernels::cuda::emulation::RunOnStream;
using sepia::kernels::cuda::emulation::WorkKind;

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
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

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
  std::map<int64_t, void*> by_uid;
  for (size_t i = 0; i < uids.size(); ++i) by_uid[uids[i]] = pointers[i];
  if (const cudnnStatus_t status = CheckPointers(graph, by_uid); status != CUDNN_STATUS_SUCCESS) {
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
  // The plan, and with it the graph, must live until the work is done.
  RunOnStream(handle->stream, WorkKind::kLibrary, [&graph, by_uid] { RunGraph(graph, by_uid); });
  return CUDNN_STATUS_SUCCESS;
}
