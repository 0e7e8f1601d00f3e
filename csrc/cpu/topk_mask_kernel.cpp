// The inner loops of topk_mask; compiled once per instruction set.
#include "mask_words.h"
#include "topk_mask_jobs.h"
#include "topk_mask_key.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

// kNoKey and kEveryKey are bounds for keys of any width.
template <class K>
SUPERTICKETS_INLINE K key_bound(int64_t key) {
  constexpr int64_t kLow = std::numeric_limits<K>::min(), kHigh = std::numeric_limits<K>::max();
  return static_cast<K>(key < kLow ? kLow : key > kHigh ? kHigh : key);
}

// Flags of 64 scores against two pivots.
struct Flags {
  uint64_t above[2];
};

template <class S, bool kByMagnitude>
SUPERTICKETS_INLINE Flags compare(const S* scores, Key<S> first, Key<S> second) {
  constexpr int kVectors = kWord / kLanes<Key<S>>;
  Vector<Key<S>> keys[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    keys[v] = keys_of<S, kByMagnitude>(scores + v * kLanes<Key<S>>);
  }
  return {{word_above<Key<S>>(keys, first), word_above<Key<S>>(keys, second)}};
}

// A word's worth of a piece. The last one may be shorter: it is then a copy.
template <class S>
struct Block {
  const S* scores;
  const S* other;
  bool* mask;
  uint64_t valid;
};

// Calls body(word index, block) for all words of a piece. `store`: body writes the mask.
template <class S, class Body>
SUPERTICKETS_INLINE void for_each_block(const Piece& piece, bool store, const Body& body) {
  const S* scores = static_cast<const S*>(piece.scores);
  const S* other = piece.other == nullptr ? scores : static_cast<const S*>(piece.other);
  const int64_t words = piece.count / kWord;
  for (int64_t w = 0; w < words; ++w) {
    const int64_t i = w * kWord;
    bool* mask = piece.mask == nullptr ? nullptr : piece.mask + i;
    body(w, Block<S>{scores + i, other + i, mask, ~uint64_t{0}});
  }
  const int64_t rest = piece.count % kWord, i = words * kWord;
  if (rest == 0) return;
  S copies[2][kWord] = {};
  bool mask[kWord] = {};
  const size_t bytes = static_cast<size_t>(rest) * sizeof(S);
  std::memcpy(copies[0], scores + i, bytes);
  std::memcpy(copies[1], other + i, bytes);
  if (piece.mask != nullptr) std::memcpy(mask, piece.mask + i, static_cast<size_t>(rest));
  body(words, Block<S>{copies[0], copies[1], mask, (uint64_t{1} << rest) - 1});
  if (store) std::memcpy(piece.mask + i, mask, static_cast<size_t>(rest));
}

// Flags of one word against one pair of pivots for each group.
template <class S, bool kByMagnitude, bool kSplit>
SUPERTICKETS_INLINE Flags compare_groups(const Block<S>& block, uint64_t old,
                                         const Key<S> (&pivots)[2][2]) {
  Flags flags = compare<S, kByMagnitude>(block.scores, pivots[0][0], pivots[0][1]);
  if constexpr (kSplit) {
    const Flags inactive = compare<S, kByMagnitude>(block.other, pivots[1][0], pivots[1][1]);
    for (int k = 0; k < 2; ++k) {
      flags.above[k] = (flags.above[k] & old) | (inactive.above[k] & ~old);
    }
  }
  for (uint64_t& word : flags.above) word &= block.valid;
  return flags;
}

template <class K>
SUPERTICKETS_INLINE void collect(Undecided& list, uint64_t word, uint64_t old, int64_t first,
                                 const auto* scores, const auto& key) {
  if (word == 0) return;
  if (list.count + kWord > list.capacity) {
    list.overflow = true;
    return;
  }
  K* keys = static_cast<K*>(list.keys);
  int64_t count = list.count;
  const auto put = [&](int bit) SUPERTICKETS_LAMBDA_INLINE {
    const auto active = static_cast<uint32_t>(old >> bit & 1);
    list.indices[count] = static_cast<uint32_t>(first + bit) | active << kActiveBit;
    keys[count++] = key(scores[bit]);
  };
  if (word == ~uint64_t{0}) {
    for (int bit = 0; bit < kWord; ++bit) put(bit);
  } else {
    for (; word != 0; word &= word - 1) put(__builtin_ctzll(word));
  }
  list.count = count;
}

template <class S, bool kByMagnitude, bool kSplit, Before kBefore>
void sweep_as(SweepJob& job) {
  using K = Key<S>;
  const K pivots[2][2] = {
      {key_bound<K>(job.interval[0].high), key_bound<K>(job.interval[0].below)},
      {key_bound<K>(job.interval[1].high), key_bound<K>(job.interval[1].below)}};
  const auto key = [](const S& score)
                       SUPERTICKETS_LAMBDA_INLINE { return key_of<S, kByMagnitude>(score); };
  const uint64_t* words = job.words;
  uint64_t* saved = job.saved;
  const bool write = job.write;
  Tally tally;
  Undecided lists[2] = {job.undecided[0], job.undecided[1]};
  const auto body = [&](int64_t w, const Block<S>& block) SUPERTICKETS_LAMBDA_INLINE {
    uint64_t old = 0;
    if constexpr (kBefore == Before::kMask) {
      old = word_of(block.mask) & block.valid;
      if (saved != nullptr) saved[w] = old;
    }
    if constexpr (kBefore == Before::kWords) old = words[w];
    const Flags flags = compare_groups<S, kByMagnitude, kSplit>(block, old, pivots);
    const uint64_t in = flags.above[0], open = flags.above[1] & ~in;
    if constexpr (kBefore != Before::kNothing) {
      tally.ones += ones(old);
      tally.kept += ones(in & old);
    }
    tally.grown += ones(in & ~old);
    if constexpr (kSplit) {
      collect<K>(lists[0], open & old, old, w * kWord, block.scores, key);
      collect<K>(lists[1], open & ~old, old, w * kWord, block.other, key);
    } else {
      collect<K>(lists[0], open, old, w * kWord, block.scores, key);
    }
    if (!write) return;
    const uint64_t now = in | (open & old);
    if (kBefore == Before::kNothing || now != old) store_word(block.mask, now);
  };
  for_each_block<S>(job.piece, write, body);
  job.tally = tally;
  for (int g = 0; g < 2; ++g) job.undecided[g] = lists[g];
}

template <class S, bool kByMagnitude>
void sweep(SweepJob& job) {
  if (job.before == Before::kNothing) {
    return sweep_as<S, kByMagnitude, false, Before::kNothing>(job);
  }
  if (job.before == Before::kMask) {
    if (job.split) return sweep_as<S, kByMagnitude, true, Before::kMask>(job);
    return sweep_as<S, kByMagnitude, false, Before::kMask>(job);
  }
  if (job.split) return sweep_as<S, kByMagnitude, true, Before::kWords>(job);
  sweep_as<S, kByMagnitude, false, Before::kWords>(job);
}

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
void patch(PatchJob& job) {
  const Key<S>* keys = static_cast<const Key<S>*>(job.undecided.keys);
  const uint32_t* indices = job.undecided.indices;
  const int64_t threshold = job.threshold.key;
  const bool write = job.write;
  int64_t ties = job.threshold.ties, kept = 0, grown = 0;
  for (int64_t i = 0; i < job.undecided.count; ++i) {
    const int64_t key = keys[i];
    const bool tied = key == threshold && ties > 0;
    ties -= tied ? 1 : 0;
    const bool in = key > threshold || tied;
    const bool old = indices[i] >> kActiveBit != 0;
    kept += in && old ? 1 : 0;
    grown += in && !old ? 1 : 0;
    if (write && in != old) job.mask[indices[i] & ((1u << kActiveBit) - 1)] = in;
  }
  job.tally.kept += kept;
  job.tally.grown += grown;
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
                                          SUPERTICKETS_ROW(above),
                                          SUPERTICKETS_ROW(inside)};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
