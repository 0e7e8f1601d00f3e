// Order-preserving unsigned keys of scores: equal keys are ties, NaN has key 0, the lowest.
#pragma once

#include "runtime.h"

namespace supertickets::cuda {

// The bits of a floating-point type.
template <class Word, Word kInfinity_>
struct ScoreBits {
  using Bits = Word;
  static constexpr int kBits = 8 * sizeof(Word);
  static constexpr Word kInfinity = kInfinity_;
  static constexpr Word kSign = Word{1} << (kBits - 1);

  static __device__ Word key(Word bits, bool by_magnitude) {
    const Word magnitude = bits & static_cast<Word>(~kSign);
    if (magnitude > kInfinity) return 0;
    if (by_magnitude) return magnitude + 1;
    const bool negative = (bits & kSign) != 0;
    return static_cast<Word>((negative ? kInfinity - magnitude : kInfinity + magnitude) + 1);
  }

  // The score, or magnitude, that a key stands for.
  static __device__ Word score(Word key, bool by_magnitude) {
    if (key == 0) return kInfinity + 1;  // NaN
    const Word rank = key - 1;
    if (by_magnitude) return rank;
    return rank < kInfinity ? static_cast<Word>((kInfinity - rank) | kSign)
                            : static_cast<Word>(rank - kInfinity);
  }
};
using Float32Bits = ScoreBits<uint32_t, 0x7f800000>;
using Float64Bits = ScoreBits<uint64_t, 0x7ff0000000000000>;
using BFloat16Bits = ScoreBits<uint16_t, 0x7f80>;
using Float16Bits = ScoreBits<uint16_t, 0x7c00>;

}  // namespace supertickets::cuda
