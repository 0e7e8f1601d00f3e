// One update of a set: its thresholds are found, and its entries decided, in as few passes as the
// scores allow.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "scratch.h"
#include "topk_mask_sample.h"

namespace supertickets {

// Memory for the lists of one group and one task, whose pieces fill it in turn.
struct EntryRoom {
  Scratch<char> keys;
  Scratch<uint32_t> indices;
  int64_t capacity = 0, used = 0;
};

inline constexpr int64_t kSmall = 1 << 14;  // so few scores are ranked without a sample

// The first ties win: how many of them lie in each of several places.
std::vector<int64_t> share_ties(int64_t ties, const std::vector<int64_t>& equal);

class Selection {
 public:
  // With kNothing the masks hold nothing yet.
  Selection(const TopkMaskParams& params, const std::vector<Piece>& pieces, Before before);

  int64_t total() const { return total_; }
  // Active entries.
  int64_t ones();
  // Finds the set and how it differs from the masks; with `write` the masks become it, without it
  // the changes are remembered if they are few.
  Tally apply(const Target& target, bool write);
  // The masks become the set that the last apply has found.
  void write();
  // Of the changes that the last apply remembered, does all but `spared` of either kind: those with
  // the least margins. False, and nothing is done, if it remembered none.
  bool write_but(int64_t spared);
  // Of the last apply.
  Threshold threshold(int group) const { return thresholds_[group]; }

 private:
  const TopkMaskKernels& kernels() const { return topk_mask_kernels(params_.isa); }
  int storage() const { return static_cast<int>(params_.storage); }
  int64_t key_bytes() const;
  int groups() const { return target_.split ? 2 : 1; }
  void cut(const std::vector<Piece>& pieces);
  int64_t tasks() const { return static_cast<int64_t>(tasks_.size()) - 1; }
  template <class Body>
  void for_each_task(const Body& body) const;
  template <class Body>
  void for_each_piece(const Body& body) const;
  const uint64_t* words_before(size_t piece) const;

  // False if counting is the better way.
  bool guess(Guess (&result)[2]) const;
  // A sweep and its patches; false if a threshold was outside its interval.
  bool apply_fast(const Guess (&guesses)[2], bool write, Tally& tally);
  void open(EntryRoom& room, int64_t capacity) const;
  EntryList rest_of(const EntryRoom& room) const;
  void sweep(const Guess (&guesses)[2], bool write, bool changes);
  bool resolve(int group, int64_t above);
  // The threshold of the `rank` best entries of the lists, and each list's share of its ties.
  Threshold find(const std::vector<EntryList>& lists, int64_t rank,
                 std::vector<int64_t>& ties) const;
  Tally patch(bool write, bool changes);

  void rank_all();
  // Counting passes, whatever the scores are.
  void locate(int group);
  std::vector<CountJob> count(int group, int64_t first, int64_t second) const;
  Tally settle(bool write);

  TopkMaskParams params_;
  Before before_;
  Target target_;
  std::vector<Piece> pieces_;
  std::vector<int64_t> tasks_;       // a thread's pieces are [tasks_[t], tasks_[t + 1])
  std::vector<int64_t> word_begin_;  // of each piece in words_
  Scratch<uint64_t> words_;
  int64_t total_ = 0;
  Threshold thresholds_[2];
  std::vector<int64_t> ties_[2];  // of each piece
  std::vector<SweepJob> sweeps_;  // of the last sweep
  std::vector<EntryRoom> rooms_;  // of their lists
  bool changes_known_ = false;
};

template <class Body>
void Selection::for_each_task(const Body& body) const {
  if (tasks() == 1) return body(0);
  parallel_for(params_.parallel, tasks(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) body(task);
  });
}

template <class Body>
void Selection::for_each_piece(const Body& body) const {
  for_each_task([&](int64_t task) {
    for (int64_t i = tasks_[task]; i < tasks_[task + 1]; ++i) body(i);
  });
}

}  // namespace supertickets
