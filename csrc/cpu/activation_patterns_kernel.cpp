// The inner loops of activation_patterns; compiled once per instruction set.
#include "activation_patterns.h"
#include "topk_mask_key.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

// x > 0 exactly if the bits, as an unsigned integer, lie in [1, infinity]: one comparison for every
// type, false for NaN, zeros and negative numbers.
template <class S>
SUPERTICKETS_INLINE uint64_t signs(const S* values, int64_t count) {
  uint64_t word = 0;
  for (int64_t i = 0; i < count; ++i) {
    Unsigned<S> bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    const bool positive = static_cast<Unsigned<S>>(bits - 1) < Unsigned<S>{Bits<S>::kInfinity};
    word |= static_cast<uint64_t>(positive) << i;
  }
  return word;
}

template <class S>
SUPERTICKETS_INLINE uint64_t signs_of_64(const S* values) {
#if defined(__AVX512F__)
  uint64_t word = 0;
  const char* from = reinterpret_cast<const char*>(values);
  constexpr int kEach = 64 / static_cast<int>(sizeof(S));
  unroll<static_cast<int>(sizeof(S))>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
    const __m512i bits = _mm512_loadu_si512(from + 64 * k);
    uint64_t part = 0;
    if constexpr (sizeof(S) == 4) {
      const __m512i less = _mm512_sub_epi32(bits, _mm512_set1_epi32(1));
      const int infinity = static_cast<int>(Bits<S>::kInfinity);
      part = _mm512_cmplt_epu32_mask(less, _mm512_set1_epi32(infinity));
    } else if constexpr (sizeof(S) == 8) {
      const __m512i less = _mm512_sub_epi64(bits, _mm512_set1_epi64(1));
      const auto infinity = static_cast<long long>(Bits<S>::kInfinity);
      part = _mm512_cmplt_epu64_mask(less, _mm512_set1_epi64(infinity));
    } else {
      const __m512i less = _mm512_sub_epi16(bits, _mm512_set1_epi16(1));
      const auto infinity = static_cast<short>(Bits<S>::kInfinity);
      part = _mm512_cmplt_epu16_mask(less, _mm512_set1_epi16(infinity));
    }
    word |= part << (kEach * k);
  });
  return word;
#elif defined(__AVX2__)
  if constexpr (sizeof(S) == 4) {
    uint64_t word = 0;
    unroll<8>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
      const __m256 positive =
          _mm256_cmp_ps(_mm256_loadu_ps(values + 8 * k), _mm256_setzero_ps(), _CMP_GT_OQ);
      word |= static_cast<uint64_t>(_mm256_movemask_ps(positive)) << (8 * k);
    });
    return word;
  } else {
    return signs(values, 64);
  }
#elif defined(__SSE2__)
  if constexpr (sizeof(S) == 4) {
    uint64_t word = 0;
    for (int k = 0; k < 16; ++k) {
      const __m128 positive = _mm_cmpgt_ps(_mm_loadu_ps(values + 4 * k), _mm_setzero_ps());
      word |= static_cast<uint64_t>(_mm_movemask_ps(positive)) << (4 * k);
    }
    return word;
  } else {
    return signs(values, 64);
  }
#else
  return signs(values, 64);
#endif
}

// Flags of one byte each, zero or not.
SUPERTICKETS_INLINE uint64_t signs(const bool* values, int64_t count) {
  uint64_t word = 0;
  for (int64_t i = 0; i < count; ++i) word |= static_cast<uint64_t>(values[i]) << i;
  return word;
}

SUPERTICKETS_INLINE uint64_t signs_of_64(const bool* values) {
#if defined(__AVX2__)
  uint64_t zeros = 0;
  unroll<2>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
    __m256i flags;
    std::memcpy(&flags, values + 32 * k, sizeof(flags));
    const int zero = _mm256_movemask_epi8(_mm256_cmpeq_epi8(flags, _mm256_setzero_si256()));
    zeros |= static_cast<uint64_t>(static_cast<uint32_t>(zero)) << (32 * k);
  });
  return ~zeros;
#elif defined(__SSE2__)
  uint64_t zeros = 0;
  for (int k = 0; k < 4; ++k) {
    __m128i flags;
    std::memcpy(&flags, values + 16 * k, sizeof(flags));
    const int zero = _mm_movemask_epi8(_mm_cmpeq_epi8(flags, _mm_setzero_si128()));
    zeros |= static_cast<uint64_t>(static_cast<uint32_t>(zero)) << (16 * k);
  }
  return ~zeros;
#else
  return signs(values, 64);
#endif
}

template <class S>
void pack(const PackSignsParams& params, int64_t begin, int64_t end) {
  const int64_t shift = params.bit % 64;
  for (int64_t row = begin; row < end; ++row) {
    const S* values = static_cast<const S*>(params.values) + row * params.value_stride;
    uint64_t* to = params.patterns + row * params.pattern_stride + params.bit / 64;
    int64_t i = 0;
    if (shift == 0) {
      for (; i + 64 <= params.neurons; i += 64) *to++ |= signs_of_64(values + i);
    }
    for (; i < params.neurons; i += 64, ++to) {
      const int64_t count = params.neurons - i < 64 ? params.neurons - i : 64;
      const uint64_t word = count == 64 ? signs_of_64(values + i) : signs(values + i, count);
      to[0] |= word << shift;
      if (shift + count > 64) to[1] |= word >> (64 - shift);
    }
  }
}

// --- Hashes --------------------------------------------------------------------------------------

SUPERTICKETS_INLINE uint64_t mix(uint64_t hash, uint64_t word) {
  const uint64_t product = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return product ^ (product >> 29);
}

uint64_t hash(const uint64_t* row, int64_t words) {
  int64_t i = 0;
#if defined(__AVX2__)
  // Halves of each word, under a key of its place, are multiplied; sums wait for nothing else.
  __m256i sums[4], keys[4];
  const __m256i step = _mm256_set1_epi64x(0x3c6ef372fe94f82bLL);
  for (int k = 0; k < 4; ++k) {
    const long long first = 0x1e3779b97f4a7c15LL + k * 0x0c6ef372fe94f82bLL;
    keys[k] = _mm256_set_epi64x(first ^ 0x5851f42d4c957f2dLL, first ^ 0x14057b7ef767814fLL,
                                first ^ 0x27bb2ee687b0b0fdLL, first);
    sums[k] = _mm256_setzero_si256();
  }
  for (; i + 16 <= words; i += 16) {
    unroll<4>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
      __m256i bits;
      std::memcpy(&bits, row + i + 4 * k, sizeof(bits));
      const __m256i keyed = _mm256_xor_si256(bits, keys[k]);
      const __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
      sums[k] = _mm256_add_epi64(sums[k], _mm256_add_epi64(product, keyed));
      keys[k] = _mm256_add_epi64(keys[k], step);
    });
  }
  uint64_t chains[16];
  std::memcpy(chains, sums, sizeof(chains));
  for (int k = 4; k < 16; ++k) chains[k % 4] = mix(chains[k % 4], chains[k]);
#else
  uint64_t chains[4] = {1, 2, 3, 4};  // so that multiplications overlap
  for (; i + 4 <= words; i += 4) {
    for (int k = 0; k < 4; ++k) chains[k] = mix(chains[k], row[i + k]);
  }
#endif
  for (; i < words; ++i) chains[0] = mix(chains[0], row[i]);
  return mix(mix(chains[0], chains[1]), mix(chains[2], chains[3]));
}

// --- Hamming distances ---------------------------------------------------------------------------

SUPERTICKETS_INLINE int64_t distance(const uint64_t* a, const uint64_t* b, int64_t words) {
  int64_t sum = 0;
  for (int64_t i = 0; i < words; ++i) sum += __builtin_popcountll(a[i] ^ b[i]);
  return sum;
}

#if defined(__AVX2__)
// Bits of each byte by a table of half bytes, summed into four 64-bit lanes.
SUPERTICKETS_INLINE __m256i popcount_lookup(__m256i bits) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2,
                                         1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, low));
  const __m256i b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), low));
  return _mm256_sad_epu8(_mm256_add_epi8(a, b), _mm256_setzero_si256());
}

SUPERTICKETS_INLINE int64_t distance_lookup(const uint64_t* a, const uint64_t* b, int64_t words) {
  __m256i sum = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 4 <= words; i += 4) {
    __m256i x, y;
    std::memcpy(&x, a + i, sizeof(x));
    std::memcpy(&y, b + i, sizeof(y));
    sum = _mm256_add_epi64(sum, popcount_lookup(_mm256_xor_si256(x, y)));
  }
  int64_t each[4];
  std::memcpy(each, &sum, sizeof(sum));
  return each[0] + each[1] + each[2] + each[3] + distance(a + i, b + i, words - i);
}
#endif

void hamming_plain(const HammingJob& job) {
  for (int64_t i = job.first; i < job.first + job.count; ++i) {
    for (int64_t j = i; j < job.rows; ++j) {
      const uint64_t *a = job.patterns + i * job.words, *b = job.patterns + j * job.words;
#if defined(__AVX2__)
      const int64_t sum = distance_lookup(a, b, job.words);
#else
      const int64_t sum = distance(a, b, job.words);
#endif
      job.distances[i * job.rows + j] = static_cast<int32_t>(sum);
    }
  }
}

#if defined(__AVX512F__)
SUPERTICKETS_INLINE int64_t lane_sum(__m512i sum) {
  return horizontal_sum<int64_t>(reinterpret_cast<Vector<int64_t>>(sum));
}

// Four rows against two: six loads for eight distances.
__attribute__((target("avx512vpopcntdq"))) void hamming_popcnt(const HammingJob& job) {
  const int64_t words = job.words, last = job.first + job.count - 1;
  const __mmask8 rest = static_cast<__mmask8>((1u << (words % 8)) - 1);
  const uint64_t* a[4];
  for (int64_t k = 0; k < 4; ++k) {
    const int64_t i = job.first + k < last ? job.first + k : last;  // rows beyond it repeat it
    a[k] = job.patterns + i * words;
  }
  for (int64_t j = job.first; j < job.rows; j += 2) {
    const int64_t next = j + 1 < job.rows ? j + 1 : j;
    const uint64_t* b[2] = {job.patterns + j * words, job.patterns + next * words};
    __m512i sum[4][2];
    for (int k = 0; k < 4; ++k) sum[k][0] = sum[k][1] = _mm512_setzero_si512();
    for (int64_t w = 0; w < words; w += 8) {
      const __mmask8 live = words - w >= 8 ? static_cast<__mmask8>(0xff) : rest;
      const __m512i y0 = _mm512_maskz_loadu_epi64(live, b[0] + w);
      const __m512i y1 = _mm512_maskz_loadu_epi64(live, b[1] + w);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const __m512i x = _mm512_maskz_loadu_epi64(live, a[k] + w);
        sum[k][0] = _mm512_add_epi64(sum[k][0], _mm512_popcnt_epi64(_mm512_xor_si512(x, y0)));
        sum[k][1] = _mm512_add_epi64(sum[k][1], _mm512_popcnt_epi64(_mm512_xor_si512(x, y1)));
      }
    }
    for (int64_t k = 0; k < job.count; ++k) {
      int32_t* to = job.distances + (job.first + k) * job.rows;
      to[j] = static_cast<int32_t>(lane_sum(sum[k][0]));
      to[next] = static_cast<int32_t>(lane_sum(sum[k][1]));
    }
  }
}
#endif

void hamming(const HammingJob& job) {
#if defined(__AVX512F__)
  static const bool has_popcnt = __builtin_cpu_supports("avx512vpopcntdq");
  if (has_popcnt) return hamming_popcnt(job);
#endif
  hamming_plain(job);
}

}  // namespace

const ActivationPatternsKernels& activation_patterns_kernels() {
  static const ActivationPatternsKernels kernels = {
      {&pack<float>, &pack<BFloat16>, &pack<Float16>, &pack<double>}, &pack<bool>, &hamming, &hash};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
