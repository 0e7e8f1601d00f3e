// CUDA's device functions over the scheduler. Only what the kernels use; cooperative groups, inline
// PTX and __activemask are left out on purpose.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>

#include "scheduler.h"

// An OS thread runs one block at a time. AddressSanitizer guards static memory better, and then one
// OS thread runs all blocks.
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

#define threadIdx (cuda_on_cpu::here().thread)
#define blockIdx (cuda_on_cpu::here().block)
#define blockDim (cuda_on_cpu::here().block_size)
#define gridDim (cuda_on_cpu::here().grid_size)

inline void __syncthreads() { cuda_on_cpu::block_barrier(false); }
inline int __syncthreads_count(int predicate) { return cuda_on_cpu::block_barrier(predicate != 0); }
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline void __syncwarp(unsigned mask = ~0u) { cuda_on_cpu::exchange(mask, 0); }
inline void __threadfence() { cuda_on_cpu::fence(); }

namespace cuda_on_cpu {

template <class T>
uint64_t to_word(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}

// What the lane `from(own lane)` gives; lanes outside 0..31 keep their own value.
template <class T, class From>
T shuffle(unsigned mask, T value, const From& from) {
  const int lane = here().lane, source = from(lane);
  const uint64_t* words = exchange(mask, to_word(value));
  const bool inside = source >= 0 && source < kWarp;
  if (inside && (mask >> source & 1) == 0) fail("shuffle reads a lane that its mask does not name");
  T result;
  std::memcpy(&result, &words[inside ? source : lane], sizeof(T));
  return result;
}

template <class T, class Change>
T change_atomically(T* at, const Change& change) {
  std::atomic_ref<T> place(*at);
  T old = place.load(std::memory_order_relaxed);
  while (!place.compare_exchange_weak(old, change(old), std::memory_order_relaxed)) {
  }
  return old;
}

}  // namespace cuda_on_cpu

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return cuda_on_cpu::shuffle(mask, value, [&](int) { return source & 31; });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  return cuda_on_cpu::shuffle(mask, value, [&](int lane) { return lane - static_cast<int>(by); });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  return cuda_on_cpu::shuffle(mask, value, [&](int lane) { return lane + static_cast<int>(by); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int by) {
  return cuda_on_cpu::shuffle(mask, value, [&](int lane) { return lane ^ by; });
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* words = cuda_on_cpu::exchange(mask, predicate != 0);
  unsigned votes = 0;
  for (int lane = 0; lane < cuda_on_cpu::kWarp; ++lane) {
    if (mask >> lane & 1) votes |= static_cast<unsigned>(words[lane]) << lane;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }

struct __half {
  _Float16 value;
};
inline __half __ushort_as_half(unsigned short bits) { return {std::bit_cast<_Float16>(bits)}; }
inline unsigned short __half_as_ushort(__half half) {
  return std::bit_cast<unsigned short>(half.value);
}
inline float __half2float(__half half) { return static_cast<float>(half.value); }
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }

template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return cuda_on_cpu::change_atomically(at, [&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  std::atomic_ref<T>(*at).compare_exchange_strong(expected, value, std::memory_order_relaxed);
  return expected;
}
