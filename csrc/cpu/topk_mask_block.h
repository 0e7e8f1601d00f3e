// Scores of a piece, 64 at a time, against pivots. Include only from kernel files (see simd.h).
#pragma once

#include "mask_words.h"
#include "topk_mask_jobs.h"
#include "topk_mask_key.h"

namespace supertickets::SUPERTICKETS_ISA {

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

// Words' worth of a piece. The last one may be shorter: it is then a copy.
template <class S>
struct Block {
  const S* scores;
  const S* other;
  bool* mask;
  uint64_t valid;
};

// Calls body(first word, words, block) for runs of at most kWords words of a piece. `store`: body
// writes the mask.
template <class S, int kWords, class Body>
SUPERTICKETS_INLINE void for_each_chunk(const Piece& piece, bool store, const Body& body) {
  const S* scores = static_cast<const S*>(piece.scores);
  const S* other = piece.other == nullptr ? scores : static_cast<const S*>(piece.other);
  const int64_t words = piece.count / kWord;
  for (int64_t w = 0; w < words; w += kWords) {
    const int64_t i = w * kWord;
    bool* mask = piece.mask == nullptr ? nullptr : piece.mask + i;
    const int run = words - w < kWords ? static_cast<int>(words - w) : kWords;
    body(w, run, Block<S>{scores + i, other + i, mask, ~uint64_t{0}});
  }
  const int64_t rest = piece.count % kWord, i = words * kWord;
  if (rest == 0) return;
  S copies[2][kWord] = {};
  bool mask[kWord] = {};
  const size_t bytes = static_cast<size_t>(rest) * sizeof(S);
  std::memcpy(copies[0], scores + i, bytes);
  std::memcpy(copies[1], other + i, bytes);
  if (piece.mask != nullptr) std::memcpy(mask, piece.mask + i, static_cast<size_t>(rest));
  body(words, 1, Block<S>{copies[0], copies[1], mask, (uint64_t{1} << rest) - 1});
  if (store) std::memcpy(piece.mask + i, mask, static_cast<size_t>(rest));
}

// Calls body(word index, block) for all words of a piece.
template <class S, class Body>
SUPERTICKETS_INLINE void for_each_block(const Piece& piece, bool store, const Body& body) {
  for_each_chunk<S, 1>(piece, store,
                       [&](int64_t w, int, const Block<S>& block)
                           SUPERTICKETS_LAMBDA_INLINE { body(w, block); });
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

}  // namespace supertickets::SUPERTICKETS_ISA
