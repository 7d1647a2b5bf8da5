// The arithmetic of the stand-in of cuDNN: in fp32, rounding what is stored or declared in a 16-bit
// format.
#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "kernels/cuda/emulation/libraries/cudnn_objects.h"
#include "kernels/cuda/emulation/libraries/device_range.h"

namespace sepia::kernels::cuda::emulation::cudnn {
namespace {

// Elements of a tensor in row-major order, in fp32.
using Values = std::vector<float>;

struct Run {
  const std::map<int64_t, void*>& pointers;
  std::map<int64_t, Values> values = {};  // by uid

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

}  // namespace

void RunGraph(const Object& graph, const std::map<int64_t, void*>& pointers) {
  Run{pointers}.All(graph);
}

}  // namespace sepia::kernels::cuda::emulation::cudnn
