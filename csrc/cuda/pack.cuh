// Neighbours in memory that a thread loads and stores together.
#pragma once

#include "runtime.h"

namespace supertickets::cuda {

template <class Word, int kCount>
struct alignas(kCount * sizeof(Word)) Pack {
  Word values[kCount];
};

// kCount neighbours from `first` on; beyond `count` they are `rest`. One load where the address is
// aligned for it.
template <int kCount, class Word>
__device__ Pack<Word, kCount> load(const Word* from, int64_t first, int64_t count, Word rest) {
  using Whole = Pack<Word, kCount>;
  if (first + kCount <= count && reinterpret_cast<uintptr_t>(from + first) % sizeof(Whole) == 0) {
    return *reinterpret_cast<const Whole*>(from + first);
  }
  Whole result;
  for (int i = 0; i < kCount; ++i) {
    result.values[i] = first + i < count ? from[first + i] : rest;
  }
  return result;
}

template <int kCount, class Word>
__device__ void store(Word* to, int64_t first, int64_t count, const Pack<Word, kCount>& values) {
  using Whole = Pack<Word, kCount>;
  if (first + kCount <= count && reinterpret_cast<uintptr_t>(to + first) % sizeof(Whole) == 0) {
    *reinterpret_cast<Whole*>(to + first) = values;
    return;
  }
  for (int i = 0; i < kCount; ++i) {
    if (first + i < count) to[first + i] = values.values[i];
  }
}

}  // namespace supertickets::cuda
