// Flags of 64 entries as one word, entry 0 in the lowest bit: from comparisons, from the bytes of a
// bool mask, and back. Include only from kernel files (see simd.h).
#pragma once

#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

#if defined(__AVX2__) && !defined(__AVX512F__)
SUPERTICKETS_INLINE uint32_t packed_flags(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs stay within halves
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(bytes, order)));
}
SUPERTICKETS_INLINE uint32_t packed_flags(__m256i a, __m256i b) {
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8);
  return static_cast<uint32_t>(_mm256_movemask_epi8(bytes));
}
SUPERTICKETS_INLINE uint32_t packed_flags(__m256i a) {
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(a)));
}
using IntegerVector = __m256i;
#elif defined(__SSE2__) && !defined(__AVX2__)
SUPERTICKETS_INLINE uint32_t packed_flags(__m128i a, __m128i b, __m128i c, __m128i d) {
  const __m128i bytes = _mm_packs_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d));
  return static_cast<uint32_t>(_mm_movemask_epi8(bytes));
}
SUPERTICKETS_INLINE uint32_t packed_flags(__m128i a, __m128i b) {
  return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(a, b)));
}
SUPERTICKETS_INLINE uint32_t packed_flags(__m128i a) {
  return static_cast<uint32_t>(_mm_movemask_pd(_mm_castsi128_pd(a)));
}
using IntegerVector = __m128i;
#endif

// Which of 64 keys are above the pivot.
template <class K>
SUPERTICKETS_INLINE uint64_t word_above(const Vector<K>* keys, K pivot) {
  const Vector<K> pivots = splat(pivot);
  uint64_t word = 0;
#if defined(__AVX512F__)
  for (int v = 0; v < 64 / kLanes<K>; ++v) {
    const auto a = reinterpret_cast<__m512i>(keys[v]), b = reinterpret_cast<__m512i>(pivots);
    uint64_t flags;
    if constexpr (sizeof(K) == 8) flags = _mm512_cmpgt_epi64_mask(a, b);
    if constexpr (sizeof(K) == 4) flags = _mm512_cmpgt_epi32_mask(a, b);
    if constexpr (sizeof(K) == 2) flags = _mm512_cmpgt_epi16_mask(a, b);
    word |= flags << (v * kLanes<K>);
  }
#elif defined(__SSE2__)
  constexpr int kTogether = sizeof(K) == 8 ? 1 : static_cast<int>(sizeof(K));
  const auto flags = [&](int v) SUPERTICKETS_LAMBDA_INLINE {
    return reinterpret_cast<IntegerVector>(keys[v] > pivots);
  };
  for (int v = 0; v < 64 / kLanes<K>; v += kTogether) {
    uint64_t part;
    if constexpr (sizeof(K) == 8) part = packed_flags(flags(v));
    if constexpr (sizeof(K) == 4) {
      part = packed_flags(flags(v), flags(v + 1), flags(v + 2), flags(v + 3));
    }
    if constexpr (sizeof(K) == 2) part = packed_flags(flags(v), flags(v + 1));
    word |= part << (v * kLanes<K>);
  }
#else
  for (int v = 0; v < 64 / kLanes<K>; ++v) {
    const Vector<K> flags = keys[v] > pivots;
    for (int i = 0; i < kLanes<K>; ++i) {
      word |= static_cast<uint64_t>(flags[i] != 0) << (v * kLanes<K> + i);
    }
  }
#endif
  return word;
}

SUPERTICKETS_INLINE uint64_t word_of(const bool* mask) {
#if defined(__AVX512F__)
  const __m512i bytes = _mm512_loadu_si512(mask);
  return _mm512_test_epi8_mask(bytes, bytes);
#elif defined(__AVX2__)
  const auto half = [](const bool* from) SUPERTICKETS_LAMBDA_INLINE {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_slli_epi16(bytes, 7)));
  };
  return half(mask) | static_cast<uint64_t>(half(mask + 32)) << 32;
#else
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) {
    uint64_t bytes = 0;
    for (int k = 0; k < 8; ++k) bytes |= static_cast<uint64_t>(mask[8 * i + k]) << (8 * k);
    word |= (bytes * 0x0102040810204080u >> 56) << (8 * i);
  }
  return word;
#endif
}

SUPERTICKETS_INLINE void store_word(bool* mask, uint64_t word) {
#if defined(__AVX512F__)
  _mm512_storeu_si512(mask, _mm512_maskz_set1_epi8(word, 1));
#elif defined(__AVX2__)
  const __m256i spread =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bits = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  const auto half = [&](bool* to, uint32_t flags) SUPERTICKETS_LAMBDA_INLINE {
    const __m256i all = _mm256_set1_epi32(static_cast<int>(flags));
    const __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(all, spread), bits);
    const __m256i bytes = _mm256_and_si256(_mm256_cmpeq_epi8(own, bits), _mm256_set1_epi8(1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
  };
  half(mask, static_cast<uint32_t>(word));
  half(mask + 32, static_cast<uint32_t>(word >> 32));
#else
  for (int i = 0; i < 8; ++i) {
    const uint64_t own = ((word >> (8 * i)) & 0xff) * 0x0101010101010101u & 0x8040201008040201u;
    const uint64_t bytes = (own + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
    for (int k = 0; k < 8; ++k) mask[8 * i + k] = (bytes >> (8 * k) & 1) != 0;
  }
#endif
}

SUPERTICKETS_INLINE int64_t ones(uint64_t word) { return __builtin_popcountll(word); }

// The first `count` ones of a word.
SUPERTICKETS_INLINE uint64_t first_ones(uint64_t word, int64_t count) {
  uint64_t rest = word;
  for (; count > 0 && rest != 0; --count) rest &= rest - 1;
  return word & ~rest;
}

}  // namespace supertickets::SUPERTICKETS_ISA
