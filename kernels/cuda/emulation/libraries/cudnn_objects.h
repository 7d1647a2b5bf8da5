// What the stand-in of cuDNN keeps of a descriptor, and how a graph of them reads.
#pragma once

#include <cudnn_graph.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "kernels/cuda/emulation/libraries/runtime_types.h"

namespace sepia::kernels::cuda::emulation::cudnn {

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

inline cudaDataType_t ElementType(const Object& tensor) {
  switch (tensor.One<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE)) {
    case CUDNN_DATA_HALF: return CUDA_R_16F;
    case CUDNN_DATA_BFLOAT16: return CUDA_R_16BF;
    default: return CUDA_R_32F;
  }
}
inline std::vector<int64_t> Dims(const Object& t) {
  return t.All<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS);
}
inline std::vector<int64_t> Strides(const Object& t) {
  return t.All<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
}
inline bool IsVirtual(const Object& t) { return t.One<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL); }
inline bool IsScalar(const Object& t) { return t.One<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE); }
inline int64_t Uid(const Object& t) { return t.One<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID); }

inline std::vector<Object*> Operations(const Object& graph) {
  std::vector<Object*> operations;
  for (void* handle : graph.All<cudnnBackendDescriptor_t>(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
    operations.push_back(static_cast<Object*>(handle));
  }
  return operations;
}

inline std::vector<Object*> TensorsOf(const Object& operation) {
  std::vector<Object*> tensors;
  for (const auto& [name, bytes] : operation.attributes) {
    if (bytes.size() != sizeof(void*)) continue;
    Object* object = operation.Ref(name);
    if (object->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) tensors.push_back(object);
  }
  return tensors;
}

// The graph that a configuration or plan is for.
inline Object* GraphOf(const Object& object) {
  return object.Ref(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
}

// Runs the operations of a graph one after the other on the host; `pointers` are those of its real
// tensors, by uid, all there.
void RunGraph(const Object& graph, const std::map<int64_t, void*>& pointers);

}  // namespace sepia::kernels::cuda::emulation::cudnn
