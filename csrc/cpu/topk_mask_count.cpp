// The sure way to a set: passes that count find the threshold, whatever the scores are, and one
// more decides every entry.
#include <algorithm>
#include <stdexcept>

#include "topk_mask_arrays.h"
#include "topk_mask_key_value.h"
#include "topk_mask_select.h"

namespace supertickets {

std::vector<CountJob> Selection::count(int group, int64_t first, int64_t second) const {
  std::vector<CountJob> jobs(pieces_.size());
  const auto kernel = kernels().count[storage()][params_.by_magnitude];
  for_each_piece([&](int64_t i) {
    CountJob& job = jobs[i];
    job.piece = pieces_[i];
    job.before = before_;
    job.split = target_.split;
    job.group = group;
    job.pivots[0] = first;
    job.pivots[1] = second;
    job.words = words_before(i);
    kernel(job);
  });
  return jobs;
}

// A few scores of one group are ranked as they are.
void Selection::rank_all() {
  const Scratch<char> keys(total_ * key_bytes());
  std::vector<EntryList> lists(pieces_.size());
  const auto kernel = kernels().keys[storage()][params_.by_magnitude];
  int64_t first = 0;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    lists[i].keys = keys.get() + first * key_bytes();
    lists[i].count = pieces_[i].count;
    kernel({pieces_[i].scores, pieces_[i].count, lists[i].keys});
    first += pieces_[i].count;
  }
  thresholds_[0] = find(lists, target_.rank[0], ties_[0]);
}

// Narrows (low, high], which holds the threshold's key, until the keys inside are few or one.
void Selection::locate(int group) {
  const int64_t rank = target_.rank[group];
  const int64_t few = std::max<int64_t>(kSmall, total_ / 64);
  int64_t high = static_cast<int64_t>((uint64_t{1} << (key_bits(params_.storage) - 1)) - 1);
  int64_t low = -high - 1;
  int64_t above_low = target_.split ? target_.size[group] : total_, above_high = 0;
  std::optional<ScoreSample> scores;
  for (bool guess = true; above_low - above_high > few; guess = !guess) {
    const uint64_t width = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
    auto pivot = static_cast<int64_t>(static_cast<uint64_t>(low) + (width - width / 2));
    if (guess) {  // in turns with halves, which end in any case
      if (!scores) {
        scores.emplace(params_, pieces_, total_, target_.split);
        scores->draw();
      }
      const double share =
          static_cast<double>(rank - above_high) / static_cast<double>(above_low - above_high);
      pivot = scores->between(group, low, high, share).value_or(pivot);
    }
    const std::vector<CountJob> jobs = count(group, pivot, pivot - 1);
    int64_t above = 0, from = 0;
    std::vector<int64_t> equal(jobs.size());
    for (size_t i = 0; i < jobs.size(); ++i) {
      above += jobs[i].above[0];
      from += jobs[i].above[1];
      equal[i] = jobs[i].above[1] - jobs[i].above[0];
    }
    if (above < rank && rank <= from) {
      thresholds_[group] = {pivot, rank - above};
      ties_[group] = share_ties(rank - above, equal);
      return;
    }
    if (above >= rank) {
      low = pivot;
      above_low = above;
    } else {
      high = pivot - 1;
      above_high = from;
    }
  }
  // Few are left: they are ranked.
  Guess rest[2];
  rest[group] = {{low, high}, 1, above_low - above_high};
  sweep(rest, false, false);
  if (!resolve(group, above_high)) {
    throw std::logic_error("topk_mask: counts do not add up");
  }
}

Tally Selection::settle(bool write) {
  std::vector<Tally> tallies(pieces_.size());
  const auto kernel = kernels().settle[storage()][params_.by_magnitude];
  for_each_piece([&](int64_t i) {
    SettleJob job;
    job.piece = pieces_[i];
    job.before = before_;
    job.split = target_.split;
    job.write = write;
    for (int g = 0; g < 2; ++g) job.threshold[g] = {thresholds_[g].key, ties_[g][i]};
    job.words = words_before(i);
    kernel(job);
    tallies[i] = job.tally;
  });
  Tally sum;
  for (const Tally& tally : tallies) {
    sum.ones += tally.ones;
    sum.kept += tally.kept;
    sum.grown += tally.grown;
  }
  return sum;
}

}  // namespace supertickets
