#include "topk_mask_select.h"

#include <algorithm>

#include "topk_mask_arrays.h"
#include "topk_mask_key_value.h"

namespace supertickets {
namespace {

constexpr int64_t kWord = 64;
constexpr int64_t kTaskElements = 1 << 15;  // below this a second thread costs more than it gives
constexpr int64_t kPieceMost = 1ll << kActiveBit;  // indices of undecided entries
constexpr int64_t kListRoom = 1 << 12;             // of a task's list, beyond what is expected
constexpr int64_t kFewChanges = 64;  // one entry in so many: changes that are remembered
constexpr int64_t kListKinds = 4;    // undecided: active or all, inactive; leaving, entering

int64_t words_of(int64_t count) { return (count + kWord - 1) / kWord; }

}  // namespace

std::vector<int64_t> share_ties(int64_t ties, const std::vector<int64_t>& equal) {
  std::vector<int64_t> shares;
  shares.reserve(equal.size());
  for (const int64_t count : equal) {
    shares.push_back(std::min(count, ties));
    ties -= shares.back();
  }
  return shares;
}

Selection::Selection(const TopkMaskParams& params, const std::vector<Piece>& pieces, Before before)
    : params_(params), before_(before) {
  cut(pieces);
}

int64_t Selection::key_bytes() const { return key_bits(params_.storage) / 8; }

// Cuts the pieces where threads change, so that each gets about the same number of entries.
void Selection::cut(const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) total_ += piece.count;
  const int64_t threads = std::clamp<int64_t>(total_ / kTaskElements, 1,
                                              std::max<int64_t>(params_.parallel.threads, 1));
  const int64_t share = words_of((total_ + threads - 1) / threads) * kWord;
  int64_t left = share, words = 0;  // of the present thread
  tasks_.push_back(0);
  pieces_.reserve(pieces.size() + static_cast<size_t>(threads));
  for (const Piece& piece : pieces) {
    for (int64_t begin = 0; begin < piece.count;) {
      if (left < kWord) {
        tasks_.push_back(static_cast<int64_t>(pieces_.size()));
        left = share;
      }
      const int64_t rest = piece.count - begin;
      const int64_t count =
          std::min({rest, kPieceMost, rest <= left ? rest : left / kWord * kWord});
      const auto at = [&](const void* scores) -> const void* {
        return scores == nullptr ? nullptr : static_cast<const char*>(scores) + begin * key_bytes();
      };
      bool* mask = piece.mask == nullptr ? nullptr : piece.mask + begin;
      pieces_.push_back({at(piece.scores), at(piece.other), mask, count});
      word_begin_.push_back(words);
      words += words_of(count);
      begin += count;
      left -= count;
    }
  }
  tasks_.push_back(static_cast<int64_t>(pieces_.size()));
  word_begin_.push_back(words);
}

int64_t Selection::ones() {
  if (before_ == Before::kNothing) return 0;
  std::vector<int64_t> counts(pieces_.size());
  for_each_piece([&](int64_t i) { counts[i] = kernels().ones(pieces_[i].mask, pieces_[i].count); });
  int64_t sum = 0;
  for (const int64_t count : counts) sum += count;
  return sum;
}

Tally Selection::apply(const Target& target, bool write) {
  target_ = target;
  changes_known_ = false;
  for (int g = 0; g < 2; ++g) {
    thresholds_[g] = {};
    ties_[g].assign(pieces_.size(), 0);
  }
  Guess guesses[2];
  Tally tally;
  if (total_ > kSmall && guess(guesses) && apply_fast(guesses, write, tally)) return tally;
  if (total_ <= kSmall && !target_.split) {
    rank_all();
  } else {
    for (int g = 0; g < groups(); ++g) {
      if (target_.rank[g] > 0) locate(g);
    }
  }
  return settle(write);
}

void Selection::write() { settle(true); }

const uint64_t* Selection::words_before(size_t piece) const {
  return before_ == Before::kWords ? words_.get() + word_begin_[piece] : nullptr;
}

bool Selection::guess(Guess (&result)[2]) const {
  ScoreSample scores(params_, pieces_, total_, target_.split);
  if (target_.hint && target_.rank[0] > 0) {
    const std::optional<Guess> found = scores.around(*target_.hint, target_.rank[0]);
    if (found) {
      result[0] = *found;
      return true;
    }
  }
  scores.draw();
  for (int g = 0; g < groups(); ++g) {
    if (target_.rank[g] == 0) continue;
    const std::optional<Guess> found = scores.guess(target_, g);
    if (!found) return false;
    result[g] = *found;
  }
  return true;
}

void Selection::open(EntryRoom& room, int64_t capacity) const {
  room.keys = Scratch<char>(capacity * key_bytes());
  room.indices = Scratch<uint32_t>(capacity);
  room.capacity = capacity;
}

EntryList Selection::rest_of(const EntryRoom& room) const {
  EntryList list;
  list.keys = room.keys.get() + room.used * key_bytes();
  list.indices = room.indices.get() + room.used;
  list.capacity = room.capacity - room.used;
  return list;
}

// Fills sweeps_.
void Selection::sweep(const Guess (&guesses)[2], bool write, bool changes) {
  const bool save = write && before_ == Before::kMask;
  if (save && words_.get() == nullptr) words_ = Scratch<uint64_t>(word_begin_.back());
  sweeps_.assign(pieces_.size(), {});
  rooms_.clear();
  rooms_.resize(static_cast<size_t>(tasks() * kListKinds));
  const auto kernel = kernels().sweep[storage()][params_.by_magnitude];
  for_each_task([&](int64_t task) {
    EntryRoom* rooms = &rooms_[static_cast<size_t>(task * kListKinds)];
    int64_t count = 0;
    for (int64_t i = tasks_[task]; i < tasks_[task + 1]; ++i) count += pieces_[i].count;
    for (int g = 0; g < groups(); ++g) {
      if (guesses[g].interval.below == guesses[g].interval.high) continue;
      const double expected = guesses[g].share * static_cast<double>(count);
      const int64_t most = std::min(guesses[g].most, count) + kWord;
      open(rooms[g], std::min(static_cast<int64_t>(2 * expected) + kListRoom, most));
    }
    if (changes) open(rooms[1], rooms[0].capacity);  // of entries that were undecided and leave
    for (int g = 0; g < 2 && changes; ++g) {
      open(rooms[2 + g], std::min(count / kFewChanges + kListRoom, count + kWord));
    }
    for (int64_t i = tasks_[task]; i < tasks_[task + 1]; ++i) {
      SweepJob& job = sweeps_[i];
      job.piece = pieces_[i];
      job.before = before_;
      job.split = target_.split;
      job.write = write;
      job.changes = changes;
      job.saved = save ? words_.get() + word_begin_[i] : nullptr;
      job.words = words_before(i);
      for (int g = 0; g < 2; ++g) {
        job.interval[g] = guesses[g].interval;
        job.undecided[g] = rest_of(rooms[g]);
        job.changed[g] = rest_of(rooms[2 + g]);
      }
      kernel(job);
      for (int g = 0; g < 2; ++g) {
        rooms[g].used += job.undecided[g].count;
        rooms[2 + g].used += job.changed[g].count;
      }
      if (changes) rooms[1].used = rooms[0].used;
    }
  });
}

bool Selection::apply_fast(const Guess (&guesses)[2], bool write, Tally& tally) {
  const bool changes = !write && !target_.split && before_ == Before::kMask;
  sweep(guesses, write, changes);
  Tally decided;
  for (const SweepJob& job : sweeps_) {
    decided.ones += job.tally.ones;
    decided.kept += job.tally.kept;
    decided.grown += job.tally.grown;
  }
  bool found = true;
  for (int g = 0; g < groups() && found; ++g) {
    const int64_t above = !target_.split ? decided.kept + decided.grown
                          : g == 0       ? decided.kept
                                         : decided.grown;
    found = resolve(g, above);
  }
  if (!found) {
    if (write && before_ == Before::kMask) before_ = Before::kWords;
    return false;
  }
  const Tally late = patch(write, changes);
  tally = {decided.ones, decided.kept + late.kept, decided.grown + late.grown};
  changes_known_ = changes;
  for (const SweepJob& job : sweeps_) {
    if (job.changed[0].overflow || job.changed[1].overflow) changes_known_ = false;
  }
  return true;
}

// Finds a group's threshold among what a sweep has left undecided; `above` entries are in.
bool Selection::resolve(int group, int64_t above) {
  if (target_.rank[group] == 0) return true;
  std::vector<EntryList> lists;
  lists.reserve(sweeps_.size());
  int64_t count = 0;
  for (const SweepJob& job : sweeps_) {
    const EntryList& list = job.undecided[group];
    if (list.overflow) return false;
    lists.push_back(list);
    count += list.count;
  }
  const int64_t rank = target_.rank[group] - above;
  if (rank <= 0 || rank > count) return false;
  thresholds_[group] = find(lists, rank, ties_[group]);
  return true;
}

Threshold Selection::find(const std::vector<EntryList>& lists, int64_t rank,
                          std::vector<int64_t>& ties) const {
  ties.assign(lists.size(), 0);
  if (rank == 0) return {};
  std::vector<KeyArray> arrays;
  arrays.reserve(lists.size());
  for (const EntryList& list : lists) arrays.push_back({list.keys, list.count});
  const KeyRank found = key_of_rank(params_.isa, params_.storage, arrays, rank);
  std::vector<int64_t> equal(lists.size());
  for (size_t i = 0; i < lists.size(); ++i) {
    const auto counted = [&](int64_t key) {
      return count_above(params_.isa, params_.storage, arrays[i], key);
    };
    equal[i] = arrays[i].count == 0 ? 0 : counted(found.key - 1) - counted(found.key);
  }
  ties = share_ties(rank - found.above, equal);
  return {found.key, rank - found.above};
}

Tally Selection::patch(bool write, bool changes) {
  std::vector<Tally> tallies(pieces_.size());
  const auto kernel = kernels().patch[storage()];
  for_each_piece([&](int64_t i) {
    for (int g = 0; g < groups(); ++g) {
      PatchJob job;
      job.mask = pieces_[i].mask;
      job.write = write;
      job.middle = sweeps_[i].interval[g].middle;
      job.undecided = sweeps_[i].undecided[g];
      job.threshold = {thresholds_[g].key, ties_[g][i]};
      if (changes) job.leaving = &sweeps_[i].undecided[1];
      kernel(job);
      sweeps_[i].undecided[g] = job.undecided;
      tallies[i].kept += job.tally.kept;
      tallies[i].grown += job.tally.grown;
    }
  });
  Tally sum;
  for (const Tally& tally : tallies) {
    sum.kept += tally.kept;
    sum.grown += tally.grown;
  }
  return sum;
}

bool Selection::write_but(int64_t spared) {
  if (!changes_known_) return false;
  std::vector<EntryList> lists[2];  // leaving, entering
  for (const SweepJob& job : sweeps_) {
    for (int g = 0; g < 2; ++g) {
      lists[g].push_back(job.changed[g]);
      lists[g].push_back(job.undecided[1 - g]);
    }
  }
  int64_t entering = 0;
  for (const EntryList& list : lists[1]) entering += list.count;
  std::vector<int64_t> ties[2];
  const Threshold thresholds[2] = {find(lists[0], spared, ties[0]),
                                   find(lists[1], entering - spared, ties[1])};
  const auto kernel = kernels().move[storage()];
  for_each_piece([&](int64_t i) {
    for (int g = 0; g < 2; ++g) {
      for (const int64_t k : {2 * i, 2 * i + 1}) {
        kernel({pieces_[i].mask, lists[g][k], {thresholds[g].key, ties[g][k]}});
      }
    }
  });
  return true;
}

}  // namespace supertickets
