// A sample of scores, and what it says about where a threshold lies. It decides how long a call
// takes, never its result.
#pragma once

#include <optional>
#include <vector>

#include "topk_mask.h"

namespace supertickets {

// The set to reach. Without `split` it is the rank[0] best of all entries; with it, the rank[0]
// best of the size[0] active ones and the rank[1] best of the size[1] inactive ones.
struct Target {
  bool split = false;
  int64_t rank[2] = {};
  int64_t size[2] = {};
  std::optional<int64_t> hint;  // a guess of the threshold's key; for one group only
};

// Where a threshold's key very likely is, and how many entries that may concern.
struct Guess {
  Interval interval;
  double share = 0;          // of a piece's entries, expected inside
  int64_t most = INT64_MAX;  // inside, for certain
};

class ScoreSample {
 public:
  ScoreSample(const TopkMaskParams& params, const std::vector<Piece>& pieces, int64_t total,
              bool split);

  // Draws the whole sample; without it, `around` draws a small one.
  void draw();
  // nullopt if so many scores near the threshold are equal that an interval is of no use.
  std::optional<Guess> guess(const Target& target, int group) const;
  // nullopt if the hint cannot be right.
  std::optional<Guess> around(int64_t hint, int64_t rank);
  // The sampled key in (low, high] with that share of those above it.
  std::optional<int64_t> between(int group, int64_t low, int64_t high, double share) const;

 private:
  struct Group {
    std::vector<char> keys;        // as wide as the scores
    std::vector<uint32_t> counts;  // of keys, by line
    int64_t size = 0;
  };

  struct Line {
    const Piece* piece;
    int64_t begin, count;
  };

  Line line_at(const Piece& piece, int64_t entry) const;
  void draw_lines(int64_t lines);
  void take(const Piece& piece, int64_t begin, int64_t count);
  int64_t key_of_rank(int group, int64_t rank) const;
  int64_t count_above(int group, int64_t key) const;
  double deviation(int group, int64_t key, double share) const;
  int64_t key_at(const Group& group, int64_t i) const;

  TopkMaskParams params_;
  const std::vector<Piece>& pieces_;
  int64_t total_;
  bool split_;
  int64_t key_bytes_;
  int64_t line_;  // entries
  Group groups_[2];
};

}  // namespace supertickets
