// N:M masks on the GPU: of every m entries in a row the n best are kept. No framework type.
#pragma once

#include "../core/storage_type.h"
#include "runtime.h"

namespace supertickets::cuda {

inline constexpr int64_t kGroupMost = 64;  // entries of a group

// Groups of m entries, `inner` apart; `inner` of them, interleaved, make a block.
struct NmMaskParams {
  const void* scores;  // [blocks, m, inner]
  bool* mask;
  int64_t blocks, m, inner, n;
  StorageType storage;
  bool by_magnitude;
};
cudaError_t nm_mask(const NmMaskParams& params, cudaStream_t stream);

}  // namespace supertickets::cuda
