// The argument contract of the activation pattern operators, checked first by every back end.
#pragma once

#include "tensor.h"

namespace supertickets {

inline void check_patterns(const char* op, const Tensor& patterns) {
  STD_TORCH_CHECK(patterns.scalar_type() == ScalarType::Long, op, ": patterns must be int64");
  STD_TORCH_CHECK(patterns.dim() == 2, op, ": patterns must be [N, words], got shape ",
                  shape_text(patterns));
}

inline void check_pack_signs(const Tensor& patterns, const Tensor& values, int64_t bit) {
  constexpr const char* kOp = "pack_signs_";
  check_patterns(kOp, patterns);
  STD_TORCH_CHECK(is_storage_type(values.scalar_type()) || values.scalar_type() == ScalarType::Bool,
                  kOp, ": values must be float32, bfloat16, float16, float64 or bool");
  check_device(kOp, "values", values, "patterns", patterns);
  STD_TORCH_CHECK(values.dim() == 2 && values.size(0) == patterns.size(0), kOp,
                  ": values must be [", patterns.size(0), ", neurons], got shape ",
                  shape_text(values));
  STD_TORCH_CHECK(patterns.size(1) <= 1 || patterns.stride(1) == 1, kOp,
                  ": words of one row of patterns must be neighbours");
  const int64_t room = patterns.size(1) * 64 - values.size(1);
  STD_TORCH_CHECK(0 <= bit && bit <= room, kOp, ": bit must be in [0, ", room, "], got ", bit);
}

}  // namespace supertickets
