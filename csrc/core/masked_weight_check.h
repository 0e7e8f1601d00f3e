// The argument contract of the dense route's operators, checked first by every back end.
#pragma once

#include "masked_conv2d_check.h"

namespace supertickets {

// mask: bool of weight's shape, or the bits that pack_mask makes of one.
inline void check_masked_weight(const char* op, const Tensor& weight, const Tensor& mask) {
  check_floating(op, "weight", weight, weight);
  check_device(op, "mask", mask, "weight", weight);
  const bool bits = mask.scalar_type() == ScalarType::Byte;
  STD_TORCH_CHECK(bits || mask.scalar_type() == ScalarType::Bool, op,
                  ": mask must be bool, or the uint8 of pack_mask");
  const int64_t bytes = (weight.numel() + 7) / 8;
  STD_TORCH_CHECK(bits ? mask.dim() == 1 && mask.numel() == bytes : same_shape(mask, weight), op,
                  ": mask must have weight's shape ", shape_text(weight), ", or (", bytes,
                  ",) as uint8, got ", shape_text(mask));
}

}  // namespace supertickets
