// Exact top-k masks and bounded mask updates on the CPU, without any framework type.
//
// Scores are ranked by unsigned integer keys: equal keys are ties, NaN has key 0 and every number
// a larger one. The keep-th largest key is found by a radix select, digit by digit from the top;
// among the scores at that key the lowest flat indices win.
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

inline constexpr int kDigitBits = 11;
inline constexpr int64_t kDigits = int64_t{1} << kDigitBits;

struct HistogramJob {
  const void* scores;
  int64_t count;
  uint64_t prefix;  // only keys with these bits above the digit count
  int shift;        // of the digit's lowest bit
  int64_t* bins;    // [kDigits], added to
};

// What to do with the pieces of a tensor between two flat indices.
struct SelectJob {
  const void* scores;
  bool* mask;
  int64_t count;
  Threshold threshold;  // ties: how many of this piece's ties are in the set
};

// Entries that a mask update would change.
struct Change {
  uint64_t key;
  int64_t index;  // flat
};
struct ChangeJob {
  SelectJob select;
  int64_t first;    // flat index of scores[0]
  bool grow;        // collect entries to be grown, or to be pruned
  int64_t* counts;  // [2]: grown, pruned; added to
  Change* changes;  // where to collect, or null to count only
};

// The kernels that are compiled once per instruction set; [storage type][by value, by magnitude].
struct TopkMaskKernels {
  void (*histogram[kStorageTypes][2])(const HistogramJob&);
  void (*write[kStorageTypes][2])(const SelectJob&);
  void (*change[kStorageTypes][2])(const ChangeJob&);
};
SUPERTICKETS_DECLARE_KERNELS(TopkMaskKernels, topk_mask_kernels)

struct Span {
  const void* scores;
  bool* mask;
  int64_t count;
};

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
