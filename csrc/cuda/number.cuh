// Numbers as they are stored, and what they are computed in.
#pragma once

#include "../core/storage_type.h"
#include "runtime.h"
#if !defined(SUPERTICKETS_CUDA_ON_CPU)
#include <cuda_fp16.h>
#endif

namespace supertickets::cuda {

template <class Value>
struct Plain {
  using Word = Value;
  using Sum = Value;
  static __device__ Sum widened(Word word) { return word; }
  static __device__ Word narrowed(Sum value) { return value; }
};
using Float32 = Plain<float>;
using Float64 = Plain<double>;

struct Float16 {
  using Word = uint16_t;
  using Sum = float;
  static __device__ Sum widened(Word word) { return __half2float(__ushort_as_half(word)); }
  static __device__ Word narrowed(Sum value) { return __half_as_ushort(__float2half_rn(value)); }
};

// The upper half of a float32.
struct BFloat16 {
  using Word = uint16_t;
  using Sum = float;
  static __device__ Sum widened(Word word) { return __uint_as_float(uint32_t{word} << 16); }
  static __device__ Word narrowed(Sum value) {
    const uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Word>(bits >> 16 | 0x40);  // NaN
    return static_cast<Word>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);  // ties to even
  }
};

// Calls run(Number{}) with the type of the values.
template <class Run>
void with_number(StorageType storage, const Run& run) {
  switch (storage) {
    case StorageType::kFloat32:
      return run(Float32{});
    case StorageType::kBFloat16:
      return run(BFloat16{});
    case StorageType::kFloat16:
      return run(Float16{});
    case StorageType::kFloat64:
      return run(Float64{});
  }
}

}  // namespace supertickets::cuda
