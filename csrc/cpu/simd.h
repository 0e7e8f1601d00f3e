// Vectors of the instruction set that this file is compiled for. Include only from kernel files:
// everything here lives in the namespace of one instruction set, so that the linker can never put
// code of a stronger set in the place of a weaker one.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if !defined(SUPERTICKETS_ISA)
#error "a kernel file is compiled with -DSUPERTICKETS_ISA=baseline, avx2 or avx512"
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define SUPERTICKETS_INLINE __attribute__((always_inline)) inline
#define SUPERTICKETS_LAMBDA_INLINE __attribute__((always_inline))

namespace supertickets::SUPERTICKETS_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kAccumulators = 28;  // what the registers hold besides operands
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kAccumulators = 14;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kAccumulators = 12;
#endif

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

// Integers as wide as A, for masks of lanes.
template <class A>
using LaneInteger = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
template <class A>
using Lanes = Vector<LaneInteger<A>>;

template <class A>
SUPERTICKETS_INLINE Vector<A> load(const A* from) {
  Vector<A> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <class A>
SUPERTICKETS_INLINE void store(A* to, Vector<A> v) {
  std::memcpy(to, &v, sizeof(v));
}

template <class A>
SUPERTICKETS_INLINE Vector<A> splat(A value) {
  return value - Vector<A>{};
}

// Keeps a vector that several operations use in a register: the compiler would load it again for
// each of them, and loads are what the kernels are short of.
template <class A>
SUPERTICKETS_INLINE void keep_in_register(Vector<A>& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}

// Sum in a fixed order: halves are added until one lane is left.
template <class A>
SUPERTICKETS_INLINE A horizontal_sum(Vector<A> v) {
  A lanes[kLanes<A>];
  std::memcpy(lanes, &v, sizeof(v));
  for (int width = kLanes<A> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Compile-time loop. A loop that the compiler unrolls late leaves accumulators on the stack.
template <class Body, int... I>
SUPERTICKETS_INLINE void unroll(const Body& body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, I>{}), ...);
}
template <int kCount, class Body>
SUPERTICKETS_INLINE void unroll(const Body& body) {
  unroll(body, std::make_integer_sequence<int, kCount>{});
}

}  // namespace supertickets::SUPERTICKETS_ISA
