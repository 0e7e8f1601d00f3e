// Order-preserving integer keys, one by one and by the vector. Include only from kernel files (see
// simd.h).
#pragma once

#include "half.h"

namespace supertickets::SUPERTICKETS_ISA {

template <class S>
struct Bits;
template <>
struct Bits<float> {
  using type = uint32_t;
  using signed_type = int32_t;
  static constexpr type kInfinity = 0x7f800000u;
};
template <>
struct Bits<double> {
  using type = uint64_t;
  using signed_type = int64_t;
  static constexpr type kInfinity = 0x7ff0000000000000u;
};
template <>
struct Bits<BFloat16> {
  using type = uint16_t;
  using signed_type = int16_t;
  static constexpr type kInfinity = 0x7f80u;
};
template <>
struct Bits<Float16> {
  using type = uint16_t;
  using signed_type = int16_t;
  static constexpr type kInfinity = 0x7c00u;
};

template <class S>
using Key = typename Bits<S>::type;
template <class S>
using Keys = Vector<Key<S>>;
template <class S>
using KeyMask = Vector<typename Bits<S>::signed_type>;  // all bits of a lane, or none
template <class S>
inline constexpr int64_t kKeyLanes = kLanes<Key<S>>;

// NaN has key 0. Magnitudes follow their bits from 1 on; values put the negative ones, reversed,
// below the positive ones, and -0 equals 0. T is one key, or a vector of them.
template <class S, bool kByMagnitude, class T, class Signed>
SUPERTICKETS_INLINE T rank(T bits) {
  constexpr int kBits = 8 * sizeof(Key<S>);
  constexpr Key<S> kSign = static_cast<Key<S>>(Key<S>{1} << (kBits - 1));
  // All bits set where the top bit is.
  const auto spread = [](T value) SUPERTICKETS_LAMBDA_INLINE {
    const Signed shifted = __builtin_bit_cast(Signed, value) >> (kBits - 1);
    return __builtin_bit_cast(T, shifted);
  };
  const T magnitude = bits & static_cast<Key<S>>(~kSign);
  const T nan = spread(Bits<S>::kInfinity - magnitude);
  T key = magnitude + Key<S>{1};
  if constexpr (!kByMagnitude) {
    const T negative = spread(bits);
    key = (magnitude ^ negative) - negative + kSign;
  }
  return key & ~nan;
}

template <class S, bool kByMagnitude>
SUPERTICKETS_INLINE Key<S> key_of(const S& score) {
  Key<S> bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return rank<S, kByMagnitude, Key<S>, typename Bits<S>::signed_type>(bits);
}

template <class S, bool kByMagnitude>
SUPERTICKETS_INLINE Keys<S> keys_of(const S* scores) {
  Keys<S> bits;
  std::memcpy(&bits, scores, sizeof(bits));
  return rank<S, kByMagnitude, Keys<S>, KeyMask<S>>(bits);
}

// Vector of mask bytes <-> lanes.
template <class S>
struct ByteVector {
  typedef int8_t type __attribute__((vector_size(kKeyLanes<S>)));
};

template <class S>
SUPERTICKETS_INLINE void store_mask(bool* to, KeyMask<S> lanes) {
  const auto bytes = __builtin_convertvector(-lanes, typename ByteVector<S>::type);
  std::memcpy(to, &bytes, sizeof(bytes));
}

template <class S>
SUPERTICKETS_INLINE KeyMask<S> load_mask(const bool* from) {
  typename ByteVector<S>::type bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return -__builtin_convertvector(bytes, KeyMask<S>);
}

template <class S>
SUPERTICKETS_INLINE bool any(KeyMask<S> lanes) {
  uint64_t words[kVectorBytes / 8];
  std::memcpy(words, &lanes, sizeof(lanes));
  uint64_t found = 0;
  for (const uint64_t word : words) found |= word;
  return found != 0;
}

// Lanes count downwards, -1 each time: their number, over few enough additions for the lane.
template <class S>
SUPERTICKETS_INLINE int64_t count_of(KeyMask<S> lanes) {
  typename Bits<S>::signed_type each[kKeyLanes<S>];
  std::memcpy(each, &lanes, sizeof(lanes));
  int64_t sum = 0;
  for (const auto lane : each) sum -= lane;
  return sum;
}

}  // namespace supertickets::SUPERTICKETS_ISA
