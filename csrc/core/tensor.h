// The stable-ABI names that the tensor glue uses, and small helpers over them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <sstream>
#include <string>

#include "storage_type.h"

namespace supertickets {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// "(8, 4, 3, 3)", as Python prints a shape.
inline std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << '(';
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i > 0 ? ", " : "") << tensor.size(i);
  text << (tensor.dim() == 1 ? ",)" : ")");
  return text.str();
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != b.size(i)) return false;
  }
  return true;
}

// The first tensor's device has chosen the back end.
inline void check_device(const char* op, const char* name, const Tensor& tensor,
                         const char* first_name, const Tensor& first) {
  STD_TORCH_CHECK(
      tensor.is_cpu() == first.is_cpu() && tensor.get_device_index() == first.get_device_index(),
      op, ": ", name, " must be on the device of ", first_name);
}

inline bool is_storage_type(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half ||
         type == ScalarType::Double;
}

// Requires is_storage_type.
inline StorageType storage_type(ScalarType type) {
  switch (type) {
    case ScalarType::BFloat16:
      return StorageType::kBFloat16;
    case ScalarType::Half:
      return StorageType::kFloat16;
    case ScalarType::Double:
      return StorageType::kFloat64;
    default:
      return StorageType::kFloat32;
  }
}

// What `type` is computed in.
inline ScalarType accumulator_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool is_channels_last(const Tensor& t) {
  if (t.is_contiguous()) return false;  // a map of one pixel or one channel is both
  int64_t expected = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    if (t.size(dim) != 1 && t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

// What kernels read directly: contiguous, in the accumulator's type.
inline Tensor dense_accumulator(const Tensor& tensor) {
  return torch::stable::contiguous(
      torch::stable::to(tensor, accumulator_type(tensor.scalar_type())));
}

}  // namespace supertickets
