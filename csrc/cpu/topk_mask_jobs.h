// The passes over scores that topk_mask is made of, and the table of their kernels.
//
// Entries fall into groups: one of all entries, or the active and the inactive ones (a mask update
// ranks those two apart when it does not take the top-k set whole). Each group has a threshold.
#pragma once

#include <cstdint>

#include "../core/storage_type.h"
#include "isa.h"

namespace supertickets {

inline constexpr int64_t kNoKey = INT64_MAX;     // no key is above it
inline constexpr int64_t kEveryKey = INT64_MIN;  // every key is above it

// A group's set: keys above `key`, and of those equal to it the first `ties` by flat index.
struct Threshold {
  int64_t key = kNoKey;
  int64_t ties = 0;
};

// What is known before a pass: keys above `high` are in the set, keys up to `below` are not.
struct Interval {
  int64_t below = kNoKey, high = kNoKey;
  int64_t middle = kNoKey;  // a guess of the threshold's key
};

// Consecutive entries.
struct Piece {
  const void* scores = nullptr;
  const void* other = nullptr;  // scores of the inactive entries, where they are others
  bool* mask = nullptr;
  int64_t count = 0;
};

// Where the state of an entry before the update is found: nowhere (all inactive), in the mask, or
// in the words that an earlier pass saved.
enum class Before { kNothing, kMask, kWords };

struct Tally {
  int64_t ones = 0;   // active before
  int64_t kept = 0;   // active before, in the set
  int64_t grown = 0;  // inactive before, in the set
};

inline constexpr int kActiveBit = 31;  // of an index: the entry was active before

// Entries of a piece, in order.
struct EntryList {
  void* keys = nullptr;         // of the width of the scores
  uint32_t* indices = nullptr;  // in the piece, with kActiveBit
  int64_t capacity = 0;         // a kernel stops collecting 64 before it
  int64_t count = 0;            // result
  bool overflow = false;        // result
};

// Decides all entries outside the interval, and collects those inside. What is inside is written as
// if `middle` were the threshold, which spares most of it a second write.
struct SweepJob {
  Piece piece;
  Before before = Before::kMask;
  bool split = false;  // two groups: active, inactive
  bool write = false;
  bool changes = false;  // collect decided entries that leave (0) or enter (1) the set; no split
  Interval interval[2];
  const uint64_t* words = nullptr;  // [ceil(count / 64)], with kWords
  uint64_t* saved = nullptr;        // [ceil(count / 64)], or null: written with kMask
  EntryList undecided[2];
  EntryList changed[2];
  Tally tally;  // result: of the decided entries; `ones` of all
};

// Decides every entry.
struct SettleJob {
  Piece piece;
  Before before = Before::kMask;
  bool split = false;
  bool write = false;
  Threshold threshold[2];  // ties: of this piece
  const uint64_t* words = nullptr;
  Tally tally;  // result
};

// Decides what a sweep has left undecided.
struct PatchJob {
  bool* mask = nullptr;
  bool write = false;
  int64_t middle = kNoKey;  // what the sweep has written
  EntryList undecided;      // result, with `leaving`: those that enter the set
  Threshold threshold;
  EntryList* leaving = nullptr;  // result, or null: those that leave it
  Tally tally;                   // result; without `ones`
};

// Writes those of a list of entries, as they were before, that the threshold moves.
struct MoveJob {
  bool* mask = nullptr;
  EntryList entries;
  Threshold threshold;
};

// Counts a group's keys above two pivots.
struct CountJob {
  Piece piece;
  Before before = Before::kNothing;
  bool split = false;
  int group = 0;
  int64_t pivots[2] = {};
  const uint64_t* words = nullptr;
  int64_t above[2] = {};  // result
  int64_t size = 0;       // result: of the group
};

// Keys of single runs of scores.
struct KeysJob {
  const void* scores = nullptr;
  int64_t count = 0;
  void* keys = nullptr;  // [count]
};

// Counts keys of an array above a pivot, or copies those up to `high`, which must fit.
struct ArrayJob {
  const void* keys = nullptr;
  int64_t count = 0;
  int64_t pivot = 0;
};

struct TopkMaskKernels {
  // [storage type][by value, by magnitude]
  void (*sweep[kStorageTypes][2])(SweepJob&);
  void (*settle[kStorageTypes][2])(SettleJob&);
  void (*count[kStorageTypes][2])(CountJob&);
  void (*keys[kStorageTypes][2])(const KeysJob&);
  int64_t (*ones)(const bool* mask, int64_t count);
  // [storage type]
  void (*patch[kStorageTypes])(PatchJob&);
  void (*move[kStorageTypes])(const MoveJob&);
  int64_t (*above[kStorageTypes])(const ArrayJob&);
  int64_t (*inside[kStorageTypes])(const ArrayJob&, int64_t high, int64_t* to);
};
SUPERTICKETS_DECLARE_KERNELS(TopkMaskKernels, topk_mask_kernels)

}  // namespace supertickets
