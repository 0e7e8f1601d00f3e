// Order-preserving integer keys, one by one and by the vector. Include only from kernel files (see
// simd.h).
#pragma once

#include <limits>

#include "half.h"

namespace supertickets::SUPERTICKETS_ISA {

template <class S>
struct Bits;
template <>
struct Bits<float> {
  using type = int32_t;
  static constexpr type kInfinity = 0x7f800000;
};
template <>
struct Bits<double> {
  using type = int64_t;
  static constexpr type kInfinity = 0x7ff0000000000000;
};
template <>
struct Bits<BFloat16> {
  using type = int16_t;
  static constexpr type kInfinity = 0x7f80;
};
template <>
struct Bits<Float16> {
  using type = int16_t;
  static constexpr type kInfinity = 0x7c00;
};

template <class S>
using Key = typename Bits<S>::type;
template <class S>
using Unsigned = std::make_unsigned_t<Key<S>>;
inline constexpr int64_t kWord = 64;  // entries whose flags fill one word

// Infinity has the largest key. The sum with kShift overflows for NaN alone, which lands below
// every number, and kNan is the key of them all.
template <class S, bool kByMagnitude>
struct KeyRange {
  static constexpr Key<S> kMost = std::numeric_limits<Key<S>>::max();
  static constexpr Key<S> kShift = static_cast<Key<S>>(kMost - Bits<S>::kInfinity);
  static constexpr Key<S> kNan =
      static_cast<Key<S>>(kShift - 1 - (kByMagnitude ? 0 : Bits<S>::kInfinity));
};

// T is the bits of one score, or a vector of them; Signed the same as a signed type.
template <class S, bool kByMagnitude, class T, class Signed>
SUPERTICKETS_INLINE Signed rank(T bits) {
  using Range = KeyRange<S, kByMagnitude>;
  constexpr auto kMost = static_cast<Unsigned<S>>(Range::kMost);
  T magnitude = bits & kMost;
  if constexpr (!kByMagnitude) {
    const Signed spread = __builtin_bit_cast(Signed, bits) >> (8 * sizeof(Key<S>) - 1);
    const T negative = __builtin_bit_cast(T, spread);
    magnitude = (magnitude ^ negative) - negative;
  }
  const Signed key = __builtin_bit_cast(
      Signed, static_cast<T>(magnitude + static_cast<Unsigned<S>>(Range::kShift)));
  const Signed nan = Range::kNan - Signed{};
  return key > nan ? key : nan;
}

template <class S, bool kByMagnitude>
SUPERTICKETS_INLINE Key<S> key_of(const S& score) {
  Unsigned<S> bits;
  std::memcpy(&bits, &score, sizeof(bits));
  if constexpr (sizeof(S) == 2) {  // integers shorter than int would promote
    const bool negative = (bits & 0x8000u) != 0;
    const int magnitude = bits & 0x7fff;
    const int key = kByMagnitude || !negative ? magnitude : -magnitude;
    constexpr int kShift = KeyRange<S, kByMagnitude>::kShift;
    constexpr Key<S> kNan = KeyRange<S, kByMagnitude>::kNan;
    return magnitude > Bits<S>::kInfinity ? kNan : static_cast<Key<S>>(key + kShift);
  } else {
    return rank<S, kByMagnitude, Unsigned<S>, Key<S>>(bits);
  }
}

template <class S, bool kByMagnitude>
SUPERTICKETS_INLINE Vector<Key<S>> keys_of(const S* scores) {
  Vector<Unsigned<S>> bits;
  std::memcpy(&bits, scores, sizeof(bits));
  return rank<S, kByMagnitude, Vector<Unsigned<S>>, Vector<Key<S>>>(bits);
}

}  // namespace supertickets::SUPERTICKETS_ISA
