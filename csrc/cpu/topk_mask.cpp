#include "topk_mask.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "topk_mask_key_value.h"
#include "topk_mask_select.h"

namespace supertickets {
namespace {

double threshold_value(const TopkMaskParams& params, const Threshold& threshold) {
  if (threshold.ties == 0) return std::numeric_limits<double>::infinity();  // of an empty set
  return value_of_key(params, threshold.key);
}

int64_t allowed(int64_t wanted, const SwapLimit& limit) {
  int64_t swaps = std::min(wanted, limit.most.value_or(wanted));
  if (limit.fraction) {
    const double share = std::ceil(static_cast<double>(wanted) * *limit.fraction);
    swaps = std::min(swaps, static_cast<int64_t>(share));
  }
  return swaps;
}

}  // namespace

void topk_mask(const TopkMaskParams& params, const std::vector<Piece>& pieces, int64_t keep) {
  Selection selection(params, pieces, Before::kNothing);
  Target target;
  target.rank[0] = keep;
  selection.apply(target, true);
}

MaskChange update_topk_mask(const TopkMaskParams& params, const std::vector<Piece>& pieces,
                            int64_t keep, const SwapLimit& limit, std::optional<double> hint) {
  Selection selection(params, pieces, Before::kMask);
  const bool bounded = limit.most || limit.fraction;
  Target target;
  target.rank[0] = keep;
  if (hint) target.hint = key_of_value(params, *hint);
  const Tally tally = selection.apply(target, !bounded);
  MaskChange change;
  change.threshold = threshold_value(params, selection.threshold(0));
  change.wanted = change.grown = tally.grown;
  change.pruned = tally.ones - tally.kept;
  const int64_t swaps = std::min(change.grown, change.pruned);
  const int64_t spared = bounded ? swaps - allowed(swaps, limit) : 0;
  if (spared == 0) {
    if (bounded && change.grown + change.pruned > 0 && !selection.write_but(0)) selection.write();
    return change;
  }
  change.grown -= spared;
  change.pruned -= spared;
  if (change.grown + change.pruned == 0 || selection.write_but(spared)) return change;
  // The best of the active entries stay, the best of the inactive ones come in.
  target.split = true;
  target.hint.reset();
  target.size[0] = tally.ones;
  target.size[1] = selection.total() - tally.ones;
  target.rank[0] = tally.ones - change.pruned;
  target.rank[1] = change.grown;
  selection.apply(target, true);
  return change;
}

RiglChange rigl_update(const TopkMaskParams& params, const std::vector<Piece>& pieces,
                       int64_t swaps) {
  Selection selection(params, pieces, Before::kMask);
  Target target;
  target.split = true;
  target.size[0] = selection.ones();
  target.size[1] = selection.total() - target.size[0];
  const int64_t done = std::min({swaps, target.size[0], target.size[1]});
  target.rank[0] = target.size[0] - done;
  target.rank[1] = done;
  selection.apply(target, true);
  return {threshold_value(params, selection.threshold(0)),
          threshold_value(params, selection.threshold(1)), done};
}

}  // namespace supertickets
