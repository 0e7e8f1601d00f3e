// The inner loops of topk_mask; compiled once per instruction set.
#include "topk_mask_sweep.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

SUPERTICKETS_INLINE uint64_t word_before(Before before, const bool* mask, const uint64_t* words,
                                         int64_t w) {
  if (before == Before::kNothing) return 0;
  return before == Before::kMask ? word_of(mask) : words[w];
}

template <class S, bool kByMagnitude, bool kSplit>
void settle_as(SettleJob& job) {
  using K = Key<S>;
  // A key is never the smallest of its type, so that key - 1 is one, too.
  K pivots[2][2];
  int64_t ties[2];
  for (int g = 0; g < 2; ++g) {
    pivots[g][0] = key_bound<K>(job.threshold[g].key);
    pivots[g][1] = static_cast<K>(pivots[g][0] - 1);
    ties[g] = job.threshold[g].ties;
  }
  Tally tally;
  const auto take = [](uint64_t equal, int64_t& left) SUPERTICKETS_LAMBDA_INLINE {
    if (equal == 0 || left == 0) return uint64_t{0};
    const int64_t count = ones(equal);
    const uint64_t taken = count <= left ? equal : first_ones(equal, left);
    left -= count <= left ? count : left;
    return taken;
  };
  const auto body = [&](int64_t w, const Block<S>& block) SUPERTICKETS_LAMBDA_INLINE {
    const uint64_t old = word_before(job.before, block.mask, job.words, w) & block.valid;
    const Flags flags = compare_groups<S, kByMagnitude, kSplit>(block, old, pivots);
    const uint64_t equal = flags.above[1] & ~flags.above[0];
    uint64_t in = flags.above[0];
    if constexpr (kSplit) {
      in |= take(equal & old, ties[0]) | take(equal & ~old, ties[1]);
    } else {
      in |= take(equal, ties[0]);
    }
    tally.ones += ones(old);
    tally.kept += ones(in & old);
    tally.grown += ones(in & ~old);
    // With kWords the mask is half decided already.
    if (job.write && (job.before != Before::kMask || in != old)) store_word(block.mask, in);
  };
  for_each_block<S>(job.piece, job.write, body);
  job.tally = tally;
}

template <class S, bool kByMagnitude>
void settle(SettleJob& job) {
  if (job.split) return settle_as<S, kByMagnitude, true>(job);
  settle_as<S, kByMagnitude, false>(job);
}

template <class S, bool kByMagnitude>
void count(CountJob& job) {
  Piece piece = job.piece;
  if (job.split && job.group == 1 && piece.other != nullptr) piece.scores = piece.other;
  piece.other = nullptr;
  const Key<S> first = key_bound<Key<S>>(job.pivots[0]), second = key_bound<Key<S>>(job.pivots[1]);
  int64_t above[2] = {}, size = 0;
  for_each_block<S>(piece, false, [&](int64_t w, const Block<S>& block) SUPERTICKETS_LAMBDA_INLINE {
    uint64_t own = block.valid;
    if (job.split) {
      const uint64_t old = word_before(job.before, block.mask, job.words, w);
      own &= job.group == 0 ? old : ~old;
    }
    const Flags flags = compare<S, kByMagnitude>(block.scores, first, second);
    for (int k = 0; k < 2; ++k) above[k] += ones(flags.above[k] & own);
    size += ones(own);
  });
  for (int k = 0; k < 2; ++k) job.above[k] = above[k];
  job.size = size;
}

template <class S, bool kByMagnitude>
void keys(const KeysJob& job) {
  const S* scores = static_cast<const S*>(job.scores);
  Key<S>* to = static_cast<Key<S>*>(job.keys);
  constexpr int64_t kStep = kLanes<Key<S>>;
  int64_t i = 0;
  for (; i + kStep <= job.count; i += kStep) {
    const Vector<Key<S>> keys = keys_of<S, kByMagnitude>(scores + i);
    std::memcpy(to + i, &keys, sizeof(keys));
  }
  for (; i < job.count; ++i) to[i] = key_of<S, kByMagnitude>(scores[i]);
}

int64_t mask_ones(const bool* mask, int64_t count) {
  int64_t sum = 0, i = 0;
  for (; i + kWord <= count; i += kWord) sum += ones(word_of(mask + i));
  for (; i < count; ++i) sum += mask[i] ? 1 : 0;
  return sum;
}

template <class S>
int64_t above(const ArrayJob& job) {
  using K = Key<S>;
  const K* keys = static_cast<const K*>(job.keys);
  const K pivot = key_bound<K>(job.pivot);
  constexpr int64_t kChunk = 512;  // vectors, so that lanes of 16 bits do not overflow
  int64_t total = 0, i = 0;
  while (i + kLanes<K> <= job.count) {
    const int64_t left = (job.count - i) / kLanes<K>;
    Vector<K> sum{};
    for (int64_t v = left < kChunk ? left : kChunk; v > 0; --v, i += kLanes<K>) {
      sum += load(keys + i) > pivot;
    }
    for (int lane = 0; lane < kLanes<K>; ++lane) total -= sum[lane];
  }
  for (; i < job.count; ++i) total += keys[i] > pivot ? 1 : 0;
  return total;
}

template <class S>
int64_t inside(const ArrayJob& job, int64_t high, int64_t* to) {
  const Key<S>* keys = static_cast<const Key<S>*>(job.keys);
  using K = Key<S>;
  const K low = key_bound<K>(job.pivot), top = key_bound<K>(high);
  int64_t count = 0, i = 0;
  for (; i + kWord <= job.count; i += kWord) {
    Vector<K> block[kWord / kLanes<K>];
    std::memcpy(block, keys + i, sizeof(block));
    uint64_t word = word_above<K>(block, low) & ~word_above<K>(block, top);
    for (; word != 0; word &= word - 1) to[count++] = keys[i + __builtin_ctzll(word)];
  }
  for (; i < job.count; ++i) {
    if (low < keys[i] && keys[i] <= top) to[count++] = keys[i];
  }
  return count;
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
#define SUPERTICKETS_ROW(kernel) \
  {&kernel<float>, &kernel<BFloat16>, &kernel<Float16>, &kernel<double>}

const TopkMaskKernels& topk_mask_kernels() {
  static const TopkMaskKernels kernels = {SUPERTICKETS_TABLE(sweep),
                                          SUPERTICKETS_TABLE(settle),
                                          SUPERTICKETS_TABLE(count),
                                          SUPERTICKETS_TABLE(keys),
                                          &mask_ones,
                                          SUPERTICKETS_ROW(patch),
                                          SUPERTICKETS_ROW(move),
                                          SUPERTICKETS_ROW(above),
                                          SUPERTICKETS_ROW(inside)};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
