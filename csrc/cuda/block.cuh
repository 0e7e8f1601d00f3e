// Sums and prefixes over the threads of a block. Every thread of the block calls them.
#pragma once

#include "runtime.h"

namespace supertickets::cuda {

inline constexpr int kThreads = 256;  // of every block that uses these
inline constexpr int kWarps = kThreads / 32;
inline constexpr unsigned kAllLanes = ~0u;

// Sum over the threads before this one, and over all.
template <class T>
struct Prefix {
  T before, all;
};

template <class T>
__device__ Prefix<T> block_prefix(T value) {
  __shared__ T warp_sums[kWarps];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  T inclusive = value;
  for (int by = 1; by < 32; by *= 2) {
    const T below = __shfl_up_sync(kAllLanes, inclusive, by);
    if (lane >= by) inclusive += below;
  }
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  Prefix<T> result{inclusive - value, 0};
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) result.before += warp_sums[w];
    result.all += warp_sums[w];
  }
  __syncthreads();  // the sums are read before the next call writes them
  return result;
}

template <class T>
__device__ T warp_sum(T value) {
  for (int by = 16; by > 0; by /= 2) value += __shfl_xor_sync(kAllLanes, value, by);
  return value;
}

}  // namespace supertickets::cuda
