// The argument contract of the mask operators, checked first by every back end.
#pragma once

#include <optional>
#include <vector>

#include "tensor.h"

namespace supertickets {

inline void check_scores(const char* op, const Tensor& scores, ScalarType expected,
                         const char* name = "scores") {
  STD_TORCH_CHECK(is_storage_type(scores.scalar_type()), op, ": ", name,
                  " must be float32, bfloat16, float16 or float64");
  STD_TORCH_CHECK(scores.scalar_type() == expected, op, ": all scores must have the same dtype");
}

inline void check_keep(const char* op, int64_t keep, int64_t count) {
  STD_TORCH_CHECK(0 <= keep && keep <= count, op, ": keep must be in [0, ", count, "], got ", keep);
}

inline void check_mask(const char* op, const Tensor& mask, const Tensor& scores) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool, op, ": mask must be bool");
  check_device(op, "mask", mask, "scores", scores);
  STD_TORCH_CHECK(same_shape(mask, scores), op, ": mask must have scores' shape ",
                  shape_text(scores), ", got ", shape_text(mask));
}

inline void check_limit(const char* op, const std::optional<int64_t>& max_swaps,
                        const std::optional<double>& fraction) {
  STD_TORCH_CHECK(max_swaps.value_or(0) >= 0, op, ": max_swaps must not be negative, got ",
                  max_swaps.value_or(0));
  const double share = fraction.value_or(0);
  STD_TORCH_CHECK(0 <= share && share <= 1, op, ": max_swap_fraction must be in [0, 1], got ",
                  share);
}

inline void check_hint(const char* op, const std::optional<Tensor>& hint, ScalarType type,
                       int64_t count, const Tensor& scores) {
  if (!hint) return;
  STD_TORCH_CHECK(hint->scalar_type() == type && hint->numel() == count, op, ": hint must hold ",
                  count, " of scores' dtype, got shape ", shape_text(*hint));
  check_device(op, "hint", *hint, "scores", scores);
}

// At least one tensor, all of one dtype and on one device.
inline void check_scores_list(const char* op, const std::vector<Tensor>& scores) {
  STD_TORCH_CHECK(!scores.empty(), op, ": scores must hold at least one tensor");
  for (const Tensor& tensor : scores) {
    check_scores(op, tensor, scores.front().scalar_type());
    check_device(op, "every tensor of scores", tensor, "the first", scores.front());
  }
}

inline int64_t numel_of_all(const std::vector<Tensor>& tensors) {
  int64_t count = 0;
  for (const Tensor& tensor : tensors) count += tensor.numel();
  return count;
}

inline void check_keep_list(const char* op, const std::vector<int64_t>& keep,
                            const std::vector<Tensor>& scores) {
  STD_TORCH_CHECK(keep.size() == scores.size(), op, ": keep must have ", scores.size(),
                  " entries, got ", keep.size());
  for (size_t i = 0; i < scores.size(); ++i) check_keep(op, keep[i], scores[i].numel());
}

// One mask per scores.
inline void check_masks(const char* op, const std::vector<Tensor>& masks,
                        const std::vector<Tensor>& scores) {
  check_scores_list(op, scores);
  STD_TORCH_CHECK(masks.size() == scores.size(), op, ": there must be one mask per scores, got ",
                  masks.size(), " and ", scores.size());
  for (size_t i = 0; i < scores.size(); ++i) check_mask(op, masks[i], scores[i]);
}

inline void check_rigl(const char* op, const Tensor& mask, const Tensor& weight, const Tensor& grad,
                       int64_t swaps) {
  check_scores(op, weight, weight.scalar_type(), "weight");
  check_scores(op, grad, weight.scalar_type(), "grad");
  check_device(op, "grad", grad, "weight", weight);
  check_mask(op, mask, weight);
  STD_TORCH_CHECK(same_shape(grad, weight), op, ": grad must have weight's shape ",
                  shape_text(weight), ", got ", shape_text(grad));
  STD_TORCH_CHECK(swaps >= 0, op, ": swaps must not be negative, got ", swaps);
}

inline void check_groups(const Tensor& scores, int64_t n, int64_t m, int64_t dim, int64_t most) {
  constexpr const char* kOp = "nm_mask";
  check_scores(kOp, scores, scores.scalar_type());
  STD_TORCH_CHECK(0 <= dim && dim < scores.dim(), kOp, ": dim must be in [0, ", scores.dim() - 1,
                  "], got ", dim);
  STD_TORCH_CHECK(1 <= m && m <= most, kOp, ": m must be in [1, ", most, "], got ", m);
  STD_TORCH_CHECK(0 <= n && n <= m, kOp, ": n must be in [0, ", m, "], got ", n);
  STD_TORCH_CHECK(scores.size(dim) % m == 0, kOp, ": m must divide scores' size ", scores.size(dim),
                  " along dim ", dim, ", got ", m);
}

}  // namespace supertickets
