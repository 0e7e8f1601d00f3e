// N:M masks: of every m entries in a row the n best are kept.
#pragma once

#include <cstdint>

#include "../core/storage_type.h"
#include "isa.h"
#include "parallel.h"

namespace supertickets {

inline constexpr int64_t kGroupMost = 64;  // entries of a group

// Groups of m entries, `inner` apart; `inner` of them, interleaved, make a block.
struct NmMaskJob {
  const void* scores = nullptr;  // [blocks][m][inner]
  bool* mask = nullptr;
  int64_t blocks = 0, m = 1, inner = 1;
  int64_t n = 0;
};

struct NmMaskKernels {
  void (*nm_mask[kStorageTypes][2])(const NmMaskJob&);
};
SUPERTICKETS_DECLARE_KERNELS(NmMaskKernels, nm_mask_kernels)

// 1 <= m <= kGroupMost, 0 <= n <= m.
inline void nm_mask(StorageType storage, bool by_magnitude, const NmMaskJob& job,
                    const Parallel& parallel, Isa isa) {
  const auto kernel = nm_mask_kernels(isa).nm_mask[static_cast<int>(storage)][by_magnitude];
  const int64_t size = job.m * job.inner;
  const int64_t bytes = storage == StorageType::kFloat64   ? 8
                        : storage == StorageType::kFloat32 ? 4
                                                           : 2;
  if (size == 0) return;
  parallel_for(parallel, job.blocks, (1 << 15) / size + 1, [&](int64_t begin, int64_t end) {
    NmMaskJob part = job;
    part.scores = static_cast<const char*>(job.scores) + begin * size * bytes;
    part.mask = job.mask + begin * size;
    part.blocks = end - begin;
    kernel(part);
  });
}

}  // namespace supertickets
