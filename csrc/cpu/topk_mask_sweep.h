// The pass that decides most entries, and what follows on the few that it leaves. Include only from
// kernel files (see simd.h).
//
// Which words of 64 entries hold an undecided one, or change, no branch predictor can tell: a chunk
// of words is compared first, without branches, and those that need more are listed.
#pragma once

#include "topk_mask_block.h"

namespace supertickets::SUPERTICKETS_ISA {

inline constexpr int kChunkWords = 64;        // their scores stay in the first or second cache
inline constexpr int64_t kAheadBytes = 2048;  // of the scores, fetched early

// Words of a chunk: indices of those with something set.
struct WordList {
  uint32_t at[kChunkWords];  // wider than a char, which would alias everything
  int count = 0;
  SUPERTICKETS_INLINE void add(int w, uint64_t word) {
    at[count] = static_cast<uint32_t>(w);
    count += word != 0 ? 1 : 0;
  }
};

template <class K>
SUPERTICKETS_INLINE void put(EntryList& list, uint32_t index, bool active, K key) {
  list.indices[list.count] = index | static_cast<uint32_t>(active) << kActiveBit;
  static_cast<K*>(list.keys)[list.count++] = key;
}

// Appends the entries of a word, and gives those of them with a key above `middle`.
template <class S, bool kByMagnitude>
SUPERTICKETS_INLINE uint64_t collect(EntryList& list, uint64_t word, uint64_t old, int64_t first,
                                     const S* scores, Key<S> middle) {
  if (word == 0) return 0;
  if (list.count + kWord > list.capacity) {
    list.overflow = true;
    return 0;
  }
  EntryList local = list;
  uint64_t above = 0;
  do {
    const int bit = __builtin_ctzll(word);
    const Key<S> key = key_of<S, kByMagnitude>(scores[bit]);
    put<Key<S>>(local, static_cast<uint32_t>(first + bit), (old >> bit & 1) != 0, key);
    above |= static_cast<uint64_t>(key > middle) << bit;
    word &= word - 1;
  } while (word != 0);
  list.count = local.count;
  return above;
}

// One sweep's state between chunks.
template <class S, bool kByMagnitude, bool kSplit, Before kBefore>
class Sweep {
 public:
  explicit Sweep(SweepJob& job) : job_(job) {
    for (int g = 0; g < 2; ++g) {
      pivots_[g][0] = key_bound<Key<S>>(job.interval[g].high);
      pivots_[g][1] = key_bound<Key<S>>(job.interval[g].below);
      middle_[g] = key_bound<Key<S>>(job.interval[g].middle);
    }
  }

  // `words` words from `first` on, which lie at block; all but the last chunk are whole.
  void chunk(int64_t first, int words, const Block<S>& block) {
    uint64_t old[kChunkWords], now[kChunkWords], open[kChunkWords];
    WordList opened;
    const bool ahead = words == kChunkWords;
    Tally tally;
    for (int w = 0; w < words; ++w) {
      const Block<S> part = at(block, w);
      if (ahead) fetch(part);
      old[w] = before(first + w, part);
      const Flags flags = compare_groups<S, kByMagnitude, kSplit>(part, old[w], pivots_);
      const uint64_t in = flags.above[0];
      open[w] = flags.above[1] & ~in;
      now[w] = in;
      opened.add(w, open[w]);
      tally.ones += ones(old[w]);
      tally.kept += ones(in & old[w]);
      tally.grown += ones(in & ~old[w]);
    }
    tally_.ones += tally.ones;
    tally_.kept += tally.kept;
    tally_.grown += tally.grown;
    if (kBefore == Before::kMask && job_.saved != nullptr) {
      std::memcpy(job_.saved + first, old, static_cast<size_t>(words) * sizeof(uint64_t));
    }
    if (job_.changes) changes(first, words, block, old, now, open);
    for (int i = 0; i < opened.count; ++i) {
      const int w = static_cast<int>(opened.at[i]);
      now[w] |= undecided(first + w, at(block, w), old[w], open[w]);
    }
    if (job_.write) write(words, block, old, now);
  }

  void finish() { job_.tally = tally_; }

 private:
  SUPERTICKETS_INLINE static Block<S> at(const Block<S>& block, int w) {
    bool* mask = block.mask == nullptr ? nullptr : block.mask + w * kWord;
    return {block.scores + w * kWord, block.other + w * kWord, mask, block.valid};
  }

  SUPERTICKETS_INLINE static void fetch(const Block<S>& block) {
    constexpr int64_t kBytes = kWord * static_cast<int64_t>(sizeof(S)), kLineBytes = 64;
    for (int64_t i = 0; i < kBytes; i += kLineBytes) {
      __builtin_prefetch(reinterpret_cast<const char*>(block.scores) + kAheadBytes + i);
      if constexpr (kSplit) {
        __builtin_prefetch(reinterpret_cast<const char*>(block.other) + kAheadBytes + i);
      }
    }
    if constexpr (kBefore != Before::kWords) {
      __builtin_prefetch(block.mask + kAheadBytes / static_cast<int64_t>(sizeof(S)), 1);
    }
  }

  SUPERTICKETS_INLINE uint64_t before(int64_t w, const Block<S>& block) const {
    if constexpr (kBefore == Before::kMask) return word_of(block.mask) & block.valid;
    if constexpr (kBefore == Before::kWords) return job_.words[w];
    return 0;
  }

  SUPERTICKETS_INLINE uint64_t undecided(int64_t w, const Block<S>& block, uint64_t old,
                                         uint64_t open) {
    const int64_t entry = w * kWord;
    const auto take = [&](int g, uint64_t word, const S* scores) SUPERTICKETS_LAMBDA_INLINE {
      return collect<S, kByMagnitude>(job_.undecided[g], word, old, entry, scores, middle_[g]);
    };
    if constexpr (!kSplit) return take(0, open, block.scores);
    const uint64_t kept = take(0, open & old, block.scores);
    return kept | take(1, open & ~old, block.other);
  }

  void changes(int64_t first, int words, const Block<S>& block, const uint64_t* old,
               const uint64_t* in, const uint64_t* open) {
    WordList list;
    for (int w = 0; w < words; ++w) list.add(w, (in[w] ^ old[w]) & ~open[w]);
    for (int i = 0; i < list.count; ++i) {
      const int w = static_cast<int>(list.at[i]);
      const uint64_t change = (in[w] ^ old[w]) & ~open[w];
      const int64_t entry = (first + w) * kWord;
      const S* scores = at(block, w).scores;
      for (int g = 0; g < 2; ++g) {
        const uint64_t own = change & (g == 0 ? old[w] : ~old[w]);
        collect<S, kByMagnitude>(job_.changed[g], own, old[w], entry, scores, 0);
      }
    }
  }

  void write(int words, const Block<S>& block, const uint64_t* old, const uint64_t* now) {
    if constexpr (kBefore == Before::kNothing) {
      for (int w = 0; w < words; ++w) store_word(block.mask + w * kWord, now[w]);
      return;
    }
    WordList list;
    for (int w = 0; w < words; ++w) list.add(w, now[w] ^ old[w]);
    for (int i = 0; i < list.count; ++i) {
      const int w = static_cast<int>(list.at[i]);
      store_word(block.mask + w * kWord, now[w]);
    }
  }

  SweepJob& job_;
  Key<S> pivots_[2][2], middle_[2];
  Tally tally_;
};

template <class S, bool kByMagnitude, bool kSplit, Before kBefore>
void sweep_as(SweepJob& job) {
  Sweep<S, kByMagnitude, kSplit, kBefore> sweep(job);
  for_each_chunk<S, kChunkWords>(
      job.piece, job.write,
      [&](int64_t first, int words, const Block<S>& block) { sweep.chunk(first, words, block); });
  sweep.finish();
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

// Calls body(index, whether active before, whether in the set, key) for the entries of a list.
template <class S, class Body>
SUPERTICKETS_INLINE void for_each_entry(const EntryList& list, const Threshold& threshold,
                                        const Body& body) {
  const Key<S>* keys = static_cast<const Key<S>*>(list.keys);
  const Key<S> pivot = key_bound<Key<S>>(threshold.key);
  int64_t ties = threshold.ties;
  for (int64_t i = 0; i < list.count; ++i) {
    const int64_t tied = static_cast<int64_t>(keys[i] == pivot) & static_cast<int64_t>(ties > 0);
    ties -= tied;  // no branches: nothing here can be predicted
    const bool in = (static_cast<int64_t>(keys[i] > pivot) | tied) != 0;
    body(list.indices[i] & ((1u << kActiveBit) - 1), list.indices[i] >> kActiveBit != 0, in,
         keys[i]);
  }
}

template <class S>
void patch(PatchJob& job) {
  const Key<S> middle = key_bound<Key<S>>(job.middle);
  int64_t kept = 0, grown = 0;
  const auto count = [&](bool old, bool in) SUPERTICKETS_LAMBDA_INLINE {
    kept += static_cast<int64_t>(in) & static_cast<int64_t>(old);
    grown += static_cast<int64_t>(in) & static_cast<int64_t>(!old);
  };
  if (job.leaving != nullptr) {
    EntryList lists[2] = {*job.leaving, job.undecided};
    for (EntryList& list : lists) list.count = 0;  // what is read lies ahead of what is put
    for_each_entry<S>(job.undecided, job.threshold,
                      [&](uint32_t i, bool old, bool in, Key<S> key) SUPERTICKETS_LAMBDA_INLINE {
                        count(old, in);
                        if (in != old) put<Key<S>>(lists[old ? 0 : 1], i, old, key);
                      });
    *job.leaving = lists[0];
    job.undecided = lists[1];
  } else {
    bool* mask = job.write ? job.mask : nullptr;
    for_each_entry<S>(job.undecided, job.threshold,
                      [&](uint32_t i, bool old, bool in, Key<S> key) SUPERTICKETS_LAMBDA_INLINE {
                        count(old, in);
                        if (mask != nullptr && in != (key > middle)) mask[i] = in;
                      });
  }
  job.tally.kept = kept;
  job.tally.grown = grown;
}

template <class S>
void move(const MoveJob& job) {
  for_each_entry<S>(job.entries, job.threshold,
                    [&](uint32_t i, bool old, bool in, Key<S>) SUPERTICKETS_LAMBDA_INLINE {
                      if (in != old) job.mask[i] = in;
                    });
}

}  // namespace supertickets::SUPERTICKETS_ISA
