// A graph of operations for cuDNN, and the plan that runs it. Only dnn*.cc see this and cuDNN.
#pragma once

#include <cudnn_graph.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

namespace sepia::kernels::cuda::dnn {

using Dims = std::array<int64_t, 4>;

// A backend descriptor and its end.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Descriptor& operator=(Descriptor&&) = delete;

  template <typename T>
  Descriptor& Set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                  const T* values, int64_t count = 1) {
    SetBytes(name, type, count, values);
    return *this;
  }
  Descriptor& Set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    return Set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, &value.handle_);
  }
  // Throws DeviceError with cuDNN's words.
  Descriptor& Finalize();
  // Empty when it could be finalized, else why not.
  std::string TryFinalize();

  cudnnBackendDescriptor_t handle() const { return handle_; }

 private:
  void SetBytes(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                const void* values);

  cudnnBackendDescriptor_t handle_ = nullptr;
};

// Refers to a tensor of one graph.
struct Tensor {
  size_t index = 0;
  int64_t uid = 0;
};

// Tensors have four dimensions. Virtual ones exist inside kernels only.
class Graph {
 public:
  Tensor Real(cudnnDataType_t type, const Dims& dims, const Dims& strides);
  // Row-major.
  Tensor Virtual(cudnnDataType_t type, const Dims& dims);
  Tensor VirtualStrided(cudnnDataType_t type, const Dims& dims, const Dims& strides);
  // A number given with the call.
  Tensor Scalar(float value);

  // y = mode(x, b); with a predicate t, y = t ? x : b. An axis is for GEN_INDEX.
  struct PointwiseArgs {
    Tensor x, y;
    const Tensor* b = nullptr;
    const Tensor* t = nullptr;
    int64_t axis = -1;
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
  };
  void Pointwise(cudnnPointwiseMode_t mode, const PointwiseArgs& args);
  void Reduce(cudnnReduceTensorOp_t op, Tensor x, Tensor y);
  void Multiply(Tensor a, Tensor b, Tensor c);
  void Reshape(Tensor x, Tensor y);

  const std::map<int64_t, float>& scalars() const { return scalars_; }
  const std::vector<Descriptor>& operations() const { return operations_; }

 private:
  Tensor Add(cudnnDataType_t type, const Dims& dims, const Dims& strides, bool is_virtual,
             bool is_scalar);

  std::vector<Descriptor> tensors_, operations_, helpers_;
  std::map<int64_t, float> scalars_;  // by uid
};

struct PlanRequest {
  const Descriptor& device;  // CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR
  bool deterministic;
  int64_t max_workspace_bytes;
};

// How a graph is run on a device.
class Plan {
 public:
  // Throws UserError(kEnvironment) when no engine of the heuristics' fits the request.
  Plan(Graph graph, const char* what, const PlanRequest& request);

  int64_t workspace_bytes() const { return workspace_bytes_; }
  // Pointers of all real tensors by uid.
  void Run(cudnnHandle_t handle, const std::map<int64_t, void*>& pointers, void* workspace) const;

 private:
  // Takes the configuration if it does what is asked; else says why not.
  std::string Try(Descriptor configuration, const PlanRequest& request);

  Graph graph_;
  Descriptor operations_;
  std::vector<Descriptor> chosen_;  // configuration, plan
  int64_t workspace_bytes_ = 0;
};

}  // namespace sepia::kernels::cuda::dnn
