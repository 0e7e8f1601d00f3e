// The argument contract of the top-k operators, checked first by every back end.
#pragma once

#include <optional>
#include <vector>

#include "tensor.h"

namespace supertickets {

inline void check_scores(const char* op, const Tensor& scores, ScalarType expected) {
  STD_TORCH_CHECK(is_storage_type(scores.scalar_type()), op,
                  ": scores must be float32, bfloat16, float16 or float64");
  STD_TORCH_CHECK(scores.scalar_type() == expected, op, ": all scores must have the same dtype");
  STD_TORCH_CHECK(scores.is_cpu(), op, ": scores must be on the CPU");
}

inline void check_keep(const char* op, int64_t keep, int64_t count) {
  STD_TORCH_CHECK(0 <= keep && keep <= count, op, ": keep must be in [0, ", count, "], got ", keep);
}

inline void check_update(const Tensor& mask, const Tensor& scores, int64_t keep,
                         const std::optional<int64_t>& max_swaps) {
  constexpr const char* kOp = "update_topk_mask_";
  check_scores(kOp, scores, scores.scalar_type());
  check_keep(kOp, keep, scores.numel());
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool, kOp, ": mask must be bool");
  STD_TORCH_CHECK(mask.is_cpu(), kOp, ": mask must be on the CPU");
  STD_TORCH_CHECK(same_shape(mask, scores), kOp, ": mask must have scores' shape ",
                  shape_text(scores), ", got ", shape_text(mask));
  STD_TORCH_CHECK(max_swaps.value_or(0) >= 0, kOp, ": max_swaps must not be negative, got ",
                  max_swaps.value_or(0));
}

}  // namespace supertickets
