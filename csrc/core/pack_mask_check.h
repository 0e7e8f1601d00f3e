// The argument contract of bit packing, checked first by every back end.
#pragma once

#include "tensor.h"

namespace supertickets {

inline void check_unpacked(const Tensor& mask) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool, "pack_mask: mask must be bool");
}

inline void check_packed(const Tensor& packed, const Tensor& mask) {
  constexpr const char* kOp = "unpack_mask";
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.dim() == 1, kOp,
                  ": packed must be one-dimensional uint8");
  const int64_t bytes = (mask.numel() + 7) / 8;
  STD_TORCH_CHECK(packed.numel() == bytes, kOp, ": packed must hold ", bytes, " bytes for size ",
                  shape_text(mask), ", got ", packed.numel());
}

}  // namespace supertickets
