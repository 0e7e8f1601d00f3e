// Order-preserving integer keys. Include only from kernel files (see simd.h).
#pragma once

#include "half.h"

namespace supertickets::SUPERTICKETS_ISA {

template <class S>
struct Bits;
template <>
struct Bits<float> {
  using type = uint32_t;
  static constexpr type kInfinity = 0x7f800000u;
};
template <>
struct Bits<double> {
  using type = uint64_t;
  static constexpr type kInfinity = 0x7ff0000000000000u;
};
template <>
struct Bits<BFloat16> {
  using type = uint16_t;
  static constexpr type kInfinity = 0x7f80u;
};
template <>
struct Bits<Float16> {
  using type = uint16_t;
  static constexpr type kInfinity = 0x7c00u;
};

// NaN has key 0. Magnitudes follow their bits from 1 on; values put the negative ones, reversed,
// below the positive ones, and -0 equals 0.
template <class S, bool kByMagnitude>
SUPERTICKETS_INLINE typename Bits<S>::type key_of(const S& score) {
  using U = typename Bits<S>::type;
  constexpr U kSign = static_cast<U>(U{1} << (8 * sizeof(U) - 1));
  U bits;
  std::memcpy(&bits, &score, sizeof(bits));
  const U magnitude = static_cast<U>(bits & static_cast<U>(~kSign));
  if constexpr (kByMagnitude) {
    return magnitude > Bits<S>::kInfinity ? U{0} : static_cast<U>(magnitude + 1);
  } else {
    const bool negative = (bits & kSign) != 0 && magnitude != 0;
    const U ordered =
        negative ? static_cast<U>(kSign - magnitude) : static_cast<U>(kSign + magnitude);
    return magnitude > Bits<S>::kInfinity ? U{0} : ordered;
  }
}

}  // namespace supertickets::SUPERTICKETS_ISA
