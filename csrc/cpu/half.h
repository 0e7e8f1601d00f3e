// Scalar conversions between stored half precision and float32. Plain integer code, because not
// every supported compiler has a half type. Include only from kernel files (see simd.h).
#pragma once

#include <cstdint>

#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

SUPERTICKETS_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
SUPERTICKETS_INLINE float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

SUPERTICKETS_INLINE float widen(float value) { return value; }
SUPERTICKETS_INLINE double widen(double value) { return value; }
SUPERTICKETS_INLINE float widen(BFloat16 value) {
  return from_bits(static_cast<uint32_t>(value.bits) << 16);
}
SUPERTICKETS_INLINE float widen(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return from_bits(sign | ((magnitude << 13) + (112u << 23)));
  // Subnormal: the fraction counts steps of 2^-24, exactly representable in float32.
  return from_bits(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));
}

template <class S>
struct Narrow;
template <>
struct Narrow<float> {
  static SUPERTICKETS_INLINE float from(float value) { return value; }
};
template <>
struct Narrow<double> {
  static SUPERTICKETS_INLINE double from(double value) { return value; }
};
template <>
struct Narrow<BFloat16> {  // round to nearest even
  static SUPERTICKETS_INLINE BFloat16 from(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
};
template <>
struct Narrow<Float16> {  // round to nearest even
  static SUPERTICKETS_INLINE Float16 from(float value) {
    const uint32_t bits = bits_of(value);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and up
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds to steps of 2^-24
      const uint32_t steps = bits_of(from_bits(magnitude) + 0.5f) - 0x3f000000u;
      return {static_cast<uint16_t>(sign | steps)};
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return {static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13))};
  }
};

// The type that arithmetic on stored S is done in.
template <class S>
using Accumulator = decltype(widen(S{}));

}  // namespace supertickets::SUPERTICKETS_ISA
