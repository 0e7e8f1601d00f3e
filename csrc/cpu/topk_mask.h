// Exact top-k masks and bounded mask updates on the CPU, without any framework type.
//
// Scores are ranked by unsigned integer keys: equal keys are ties, NaN has key 0 and every number
// a larger one. The keep-th largest key is found in one pass: a sample gives two keys that very
// likely enclose it, the pass counts what lies above and collects the few keys in between, and an
// exact selection among those ends it. If the sample misled, or for few scores, a radix select
// finds the key digit by digit. A second pass writes the mask; among the scores at the threshold
// the lowest flat indices win.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/storage_type.h"
#include "isa.h"
#include "parallel.h"

namespace supertickets {

// The top-k set: keys above `key`, and of those equal to it the first `ties` by flat index.
struct Threshold {
  uint64_t key;
  int64_t ties;
};

// A run of consecutive scores with their mask.
struct Span {
  const void* scores;
  bool* mask;
  int64_t count;
};

inline constexpr int kDigitBits = 11;
inline constexpr int64_t kDigits = int64_t{1} << kDigitBits;

struct SampleJob {
  const void* scores;
  const int64_t* indices;  // [count]
  int64_t count;
  uint64_t* keys;  // [count]
};

// Counts keys against an interval, and collects those strictly inside.
struct ClassifyJob {
  const void* scores;
  int64_t count;
  uint64_t low, high;
  uint64_t* inside;  // [capacity]
  int64_t capacity;
  int64_t counts[4];  // result: above high, equal to high, inside, equal to low
  bool overflow;      // result: more than fits is inside; the counts are worthless
};

struct HistogramJob {
  const void* scores;
  int64_t count;
  uint64_t prefix;  // only keys with these bits above the digit count
  int shift;        // of the digit's lowest bit
  int64_t* bins;    // [kDigits], added to
};

// Compares a piece with the top-k set. `ties` of its ties belong to the set; with `all_ties` all.
struct SelectJob {
  Span span;
  Threshold threshold;
  bool all_ties;
};

// Entries that a mask update would change.
struct Change {
  uint64_t key;
  int64_t index;  // flat
};
struct ChangeJob {
  SelectJob select;
  int64_t first;  // flat index of the piece
  bool write;     // move the mask to the top-k set
  Change* grown;  // where to collect the changes, or null
  Change* pruned;
  int64_t counts[2];  // result: grown, pruned
};

// The kernels that are compiled once per instruction set; [storage type][by value, by magnitude].
struct TopkMaskKernels {
  void (*sample[kStorageTypes][2])(const SampleJob&);
  void (*classify[kStorageTypes][2])(ClassifyJob&);
  void (*histogram[kStorageTypes][2])(const HistogramJob&);
  void (*write[kStorageTypes][2])(const SelectJob&);
  void (*change[kStorageTypes][2])(ChangeJob&);
};
SUPERTICKETS_DECLARE_KERNELS(TopkMaskKernels, topk_mask_kernels)

struct TopkMaskParams {
  StorageType storage;
  bool by_magnitude;
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

struct MaskChange {
  double threshold;  // the keep-th largest score or magnitude; +inf if keep is 0
  int64_t grown, pruned;
};

// Writes the mask of the `keep` largest scores of all spans together.
void topk_mask(const TopkMaskParams& params, const std::vector<Span>& spans, int64_t keep);

// Moves span.mask to the top-k set. A change of the number of ones is carried out in full; of the
// swaps beyond it at most max_swaps (negative: all), those with the best margins.
MaskChange update_topk_mask(const TopkMaskParams& params, const Span& span, int64_t keep,
                            int64_t max_swaps);

}  // namespace supertickets
