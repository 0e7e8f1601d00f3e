// The inner loops of topk_mask; compiled once per instruction set.
#include "topk_mask.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "topk_mask_key.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

// Vectors between two emptyings of lane counters: 16-bit lanes hold no more than 32767.
inline constexpr int64_t kChunkVectors = 512;

template <class S, bool kByMagnitude>
void sample(const SampleJob& job) {
  const S* scores = static_cast<const S*>(job.scores);
  for (int64_t i = 0; i < job.count; ++i) {
    job.keys[i] = key_of<S, kByMagnitude>(scores[job.indices[i]]);
  }
}

// Appends the keys of the marked lanes; may write a whole vector behind the last one.
template <class S>
SUPERTICKETS_INLINE int64_t append(uint64_t* to, Keys<S> keys, KeyMask<S> marked) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Key<S>) == 4) {
    const auto lanes = reinterpret_cast<__m512i>(marked);
    const __mmask16 bits = _mm512_test_epi32_mask(lanes, lanes);
    if (bits == 0) return 0;
    const __m512i kept = _mm512_maskz_compress_epi32(bits, reinterpret_cast<__m512i>(keys));
    Key<S> each[kKeyLanes<S>];
    std::memcpy(each, &kept, sizeof(kept));
    for (int64_t i = 0; i < kKeyLanes<S>; ++i) to[i] = each[i];
    return __builtin_popcount(bits);
  }
#endif
  if (!any<S>(marked)) return 0;
  Key<S> each[kKeyLanes<S>];
  typename Bits<S>::signed_type flags[kKeyLanes<S>];
  std::memcpy(each, &keys, sizeof(keys));
  std::memcpy(flags, &marked, sizeof(marked));
  int64_t count = 0;
  for (int64_t i = 0; i < kKeyLanes<S>; ++i) {
    to[count] = each[i];
    count += flags[i] != 0 ? 1 : 0;
  }
  return count;
}

template <class S, bool kByMagnitude>
void classify(ClassifyJob& job) {
  const S* scores = static_cast<const S*>(job.scores);
  const Key<S> low = static_cast<Key<S>>(job.low), high = static_cast<Key<S>>(job.high);
  int64_t above = 0, at_high = 0, at_low = 0, inside = 0, i = 0;
  job.overflow = false;
  const auto room = [&](int64_t more) { return inside + more + kKeyLanes<S> <= job.capacity; };
  while (i + kKeyLanes<S> <= job.count) {
    const int64_t left = (job.count - i) / kKeyLanes<S>;
    const int64_t vectors = left < kChunkVectors ? left : kChunkVectors;
    job.overflow = !room(vectors * kKeyLanes<S>);
    if (job.overflow) return;
    KeyMask<S> over{}, equal_high{}, equal_low{};
    for (int64_t v = 0; v < vectors; ++v, i += kKeyLanes<S>) {
      const Keys<S> keys = keys_of<S, kByMagnitude>(scores + i);
      over += keys > high;
      equal_high += keys == high;
      equal_low += keys == low;
      inside += append<S>(job.inside + inside, keys, (keys > low) & (keys < high));
    }
    above += count_of<S>(over);
    at_high += count_of<S>(equal_high);
    at_low += count_of<S>(equal_low);
  }
  job.overflow = !room(job.count - i);
  if (job.overflow) return;
  for (; i < job.count; ++i) {
    const Key<S> key = key_of<S, kByMagnitude>(scores[i]);
    above += key > high ? 1 : 0;
    at_high += key == high ? 1 : 0;
    at_low += key == low ? 1 : 0;
    if (low < key && key < high) job.inside[inside++] = key;
  }
  job.counts[0] = above;
  job.counts[1] = at_high;
  job.counts[2] = inside;
  job.counts[3] = at_low;
}

template <class S, bool kByMagnitude>
void histogram(const HistogramJob& job) {
  const S* scores = static_cast<const S*>(job.scores);
  for (int64_t i = 0; i < job.count; ++i) {
    const uint64_t digits = uint64_t{key_of<S, kByMagnitude>(scores[i])} >> job.shift;
    if (digits >> kDigitBits == job.prefix) ++job.bins[digits & (kDigits - 1)];
  }
}

// Which entries are in the top-k set. Ties are handed out in order: chunks of vectors get all of
// theirs, then one chunk is gone through entry by entry, and the rest gets none.
template <class S, bool kByMagnitude>
struct Chooser {
  const S* scores;
  int64_t count;
  Key<S> threshold;
  int64_t ties;
  bool inclusive;  // whether ties of the present chunk are in

  explicit Chooser(const SelectJob& job)
      : scores(static_cast<const S*>(job.span.scores)),
        count(job.span.count),
        threshold(static_cast<Key<S>>(job.threshold.key)),
        ties(job.threshold.ties),
        inclusive(job.all_ties) {
    if (job.all_ties) ties = 0;
  }

  SUPERTICKETS_INLINE Key<S> key(int64_t i) const { return key_of<S, kByMagnitude>(scores[i]); }
  SUPERTICKETS_INLINE bool one(Key<S> key) {
    if (key != threshold || inclusive) return key >= threshold;
    if (ties == 0) return false;
    --ties;
    return true;
  }
  SUPERTICKETS_INLINE KeyMask<S> many(int64_t i) const {
    const Keys<S> keys = keys_of<S, kByMagnitude>(scores + i);
    return inclusive ? keys >= threshold : keys > threshold;
  }

  // Calls chunk(first, vectors) where a comparison decides, and single(i) elsewhere.
  template <class Chunk, class Single>
  SUPERTICKETS_INLINE void for_each(const Chunk& chunk, const Single& single) {
    int64_t i = 0;
    while (i + kKeyLanes<S> <= count) {
      const int64_t left = (count - i) / kKeyLanes<S>;
      const int64_t vectors = left < kChunkVectors ? left : kChunkVectors;
      const int64_t end = i + vectors * kKeyLanes<S>;
      const int64_t equal = ties > 0 ? count_equal(i, vectors) : 0;
      if (ties > 0 && equal > ties) {
        for (; i < end; ++i) single(i);
        continue;
      }
      const bool before = inclusive;
      inclusive = inclusive || ties > 0;
      chunk(i, vectors);
      inclusive = before;
      ties -= equal;
      i = end;
    }
    for (; i < count; ++i) single(i);
  }

  SUPERTICKETS_INLINE int64_t count_equal(int64_t i, int64_t vectors) const {
    KeyMask<S> equal{};
    for (int64_t v = 0; v < vectors; ++v) {
      equal += keys_of<S, kByMagnitude>(scores + i + v * kKeyLanes<S>) == threshold;
    }
    return count_of<S>(equal);
  }
};

template <class S, bool kByMagnitude>
void write(const SelectJob& job) {
  bool* mask = job.span.mask;
  Chooser<S, kByMagnitude> chooser(job);
  chooser.for_each(
      [&](int64_t first, int64_t vectors) {
        for (int64_t v = 0; v < vectors; ++v) {
          const int64_t i = first + v * kKeyLanes<S>;
          store_mask<S>(mask + i, chooser.many(i));
        }
      },
      [&](int64_t i) { mask[i] = chooser.one(chooser.key(i)); });
}

template <class S, bool kByMagnitude>
void change(ChangeJob& job) {
  bool* mask = job.select.span.mask;
  Chooser<S, kByMagnitude> chooser(job.select);
  int64_t grown = 0, pruned = 0;
  const auto decide = [&](int64_t i, Key<S> key, bool keep) {
    if (keep == mask[i]) return;
    Change* list = keep ? job.grown : job.pruned;
    int64_t& changes = keep ? grown : pruned;
    if (list != nullptr) list[changes] = {key, job.first + i};
    ++changes;
    if (job.write) mask[i] = keep;
  };
  const auto single = [&](int64_t i) {
    const Key<S> key = chooser.key(i);
    decide(i, key, chooser.one(key));
  };
  const auto collect = [&](int64_t first, int64_t vectors) {
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t i = first + v * kKeyLanes<S>;
      const KeyMask<S> keep = chooser.many(i);
      if (!any<S>(keep ^ load_mask<S>(mask + i))) continue;
      typename Bits<S>::signed_type each[kKeyLanes<S>];
      std::memcpy(each, &keep, sizeof(keep));
      for (int64_t k = 0; k < kKeyLanes<S>; ++k) decide(i + k, chooser.key(i + k), each[k] != 0);
    }
  };
  const auto count = [&](int64_t first, int64_t vectors) {
    KeyMask<S> more{}, less{};
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t i = first + v * kKeyLanes<S>;
      const KeyMask<S> keep = chooser.many(i);
      const KeyMask<S> old = load_mask<S>(mask + i);
      more += keep & ~old;
      less += old & ~keep;
      if (job.write) store_mask<S>(mask + i, keep);
    }
    grown += count_of<S>(more);
    pruned += count_of<S>(less);
  };
  if (job.grown != nullptr) {
    chooser.for_each(collect, single);
  } else {
    chooser.for_each(count, single);
  }
  job.counts[0] = grown;
  job.counts[1] = pruned;
}

}  // namespace

#define SUPERTICKETS_TABLE(kernel)                           \
  {                                                          \
    {&kernel<float, false>, &kernel<float, true>},           \
        {&kernel<BFloat16, false>, &kernel<BFloat16, true>}, \
        {&kernel<Float16, false>, &kernel<Float16, true>}, { \
      &kernel<double, false>, &kernel<double, true>          \
    }                                                        \
  }

const TopkMaskKernels& topk_mask_kernels() {
  static const TopkMaskKernels kernels = {SUPERTICKETS_TABLE(sample), SUPERTICKETS_TABLE(classify),
                                          SUPERTICKETS_TABLE(histogram), SUPERTICKETS_TABLE(write),
                                          SUPERTICKETS_TABLE(change)};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
