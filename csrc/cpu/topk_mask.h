// Exact top-k masks and mask updates on the CPU, without any framework type.
//
// Scores are ranked by integer keys: equal keys are ties, NaN has the lowest. A sample gives an
// interval that very likely holds the threshold. One pass decides every entry outside it, and
// collects the few inside; the threshold is found among those, and they are decided last. If the
// sample misled, or where many scores are equal, counting passes find the threshold instead.
#pragma once

#include <optional>
#include <vector>

#include "parallel.h"
#include "topk_mask_jobs.h"

namespace supertickets {

struct TopkMaskParams {
  StorageType storage;
  bool by_magnitude;
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

// How many of the wanted swaps are done: at most `most`, at most ceil(wanted * fraction).
struct SwapLimit {
  std::optional<int64_t> most;
  std::optional<double> fraction;
};

struct MaskChange {
  double threshold;  // the keep-th largest score or magnitude; +inf if keep is 0
  int64_t grown, pruned;
  int64_t wanted;  // entries of the top-k set that the mask lacked
};

// The pieces together are ranked as one list.

// Writes the mask of the `keep` largest scores.
void topk_mask(const TopkMaskParams& params, const std::vector<Piece>& pieces, int64_t keep);

// Moves the masks to the top-k set. A change of the number of ones is carried out in full; of the
// swaps beyond it as many as the limit allows, those with the best margins. `hint` is a guess of
// the threshold: a good one saves time.
MaskChange update_topk_mask(const TopkMaskParams& params, const std::vector<Piece>& pieces,
                            int64_t keep, const SwapLimit& limit, std::optional<double> hint);

struct RiglChange {
  double kept_weight;  // the smallest magnitude of a weight that stays active; +inf if none does
  double grown_grad;   // the smallest magnitude of a gradient that is grown; +inf if none is
  int64_t swaps;
};

// Prunes the active entries with the smallest |scores|, and grows as many of those that were
// inactive, with the largest |other|.
RiglChange rigl_update(const TopkMaskParams& params, const std::vector<Piece>& pieces,
                       int64_t swaps);

}  // namespace supertickets
