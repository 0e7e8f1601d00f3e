// Masks as bits on the GPU: entry i is bit i % 8 of byte i / 8. No framework type.
#pragma once

#include "runtime.h"

namespace supertickets::cuda {

// Bits beyond `count` are written as 0.
cudaError_t pack_mask(const bool* mask, int64_t count, uint8_t* bits, cudaStream_t stream);
cudaError_t unpack_mask(const uint8_t* bits, int64_t count, bool* mask, cudaStream_t stream);

}  // namespace supertickets::cuda
