// Masks as bits: entry i is bit i % 8 of byte i / 8.
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace supertickets {

struct PackMaskKernels {
  // Bits beyond `count` are written as 0, and not read.
  void (*pack)(const bool* mask, int64_t count, uint8_t* bits);
  void (*unpack)(const uint8_t* bits, int64_t count, bool* mask);
};
SUPERTICKETS_DECLARE_KERNELS(PackMaskKernels, pack_mask_kernels)

inline constexpr int64_t kPackEntries = 1 << 16;  // that a thread takes at least, of whole words

// Calls part(first entry, entries) on the threads.
template <class Part>
void for_mask_parts(const Parallel& parallel, int64_t count, const Part& part) {
  const int64_t chunks = (count + kPackEntries - 1) / kPackEntries;
  parallel_for(parallel, chunks, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kPackEntries;
    const int64_t last = end * kPackEntries < count ? end * kPackEntries : count;
    part(first, last - first);
  });
}

inline void pack_mask(const bool* mask, int64_t count, uint8_t* bits, const Parallel& parallel,
                      Isa isa) {
  for_mask_parts(parallel, count, [&](int64_t first, int64_t entries) {
    pack_mask_kernels(isa).pack(mask + first, entries, bits + first / 8);
  });
}

inline void unpack_mask(const uint8_t* bits, int64_t count, bool* mask, const Parallel& parallel,
                        Isa isa) {
  for_mask_parts(parallel, count, [&](int64_t first, int64_t entries) {
    pack_mask_kernels(isa).unpack(bits + first / 8, entries, mask + first);
  });
}

}  // namespace supertickets
