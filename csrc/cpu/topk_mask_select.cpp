#include "topk_mask_select.h"

#include <algorithm>
#include <stdexcept>

#include "topk_mask_arrays.h"
#include "topk_mask_key_value.h"

namespace supertickets {
namespace {

constexpr int64_t kWord = 64;
constexpr int64_t kSmall = 1 << 14;         // so few scores are ranked without a sample
constexpr int64_t kTaskElements = 1 << 15;  // below this a second thread costs more than it gives
constexpr int64_t kPieceMost = 1ll << kActiveBit;  // indices of undecided entries
constexpr int64_t kUndecidedRoom = 1 << 12;  // per piece, beyond twice what the sample lets expect

int64_t words_of(int64_t count) { return (count + kWord - 1) / kWord; }

}  // namespace

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

template <class Body>
void Selection::for_each_piece(const Body& body) const {
  const auto tasks = static_cast<int64_t>(tasks_.size()) - 1;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = tasks_[begin]; i < tasks_[end]; ++i) body(i);
  };
  if (tasks == 1) return run(0, 1);
  parallel_for(params_.parallel, tasks, 1, run);
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
  for (int g = 0; g < 2; ++g) {
    thresholds_[g] = {};
    ties_[g].assign(pieces_.size(), 0);
  }
  Guess guesses[2];
  Tally tally;
  if (total_ > kSmall && guess(guesses) && apply_fast(guesses, write, tally)) return tally;
  for (int g = 0; g < groups(); ++g) {
    if (target_.rank[g] > 0) locate(g);
  }
  return settle(write);
}

void Selection::write() { settle(true); }

const uint64_t* Selection::words_before(size_t piece) const {
  return before_ == Before::kWords ? words_.get() + word_begin_[piece] : nullptr;
}

// --- The fast way -------------------------------------------------------------------------------

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

std::vector<SweepJob> Selection::sweep(const Guess (&guesses)[2], bool write) {
  const bool save = write && before_ == Before::kMask;
  if (save && words_ == nullptr) words_.reset(new uint64_t[word_begin_.back()]);
  std::vector<SweepJob> jobs(pieces_.size());
  buffers_.clear();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    SweepJob& job = jobs[i];
    job.piece = pieces_[i];
    job.before = before_;
    job.split = target_.split;
    job.write = write;
    job.saved = save ? words_.get() + word_begin_[i] : nullptr;
    job.words = words_before(i);
    for (int g = 0; g < groups(); ++g) {
      job.interval[g] = guesses[g].interval;
      if (job.interval[g].below == job.interval[g].high) continue;
      const double expected = guesses[g].share * static_cast<double>(job.piece.count);
      const int64_t most = std::min(guesses[g].most, job.piece.count) + kWord;
      const int64_t capacity = std::min(static_cast<int64_t>(2 * expected) + kUndecidedRoom, most);
      const int64_t index_bytes = words_of(capacity * 4) * kWord;
      buffers_.emplace_back(new char[index_bytes + capacity * key_bytes()]);
      job.undecided[g].indices = reinterpret_cast<uint32_t*>(buffers_.back().get());
      job.undecided[g].keys = buffers_.back().get() + index_bytes;
      job.undecided[g].capacity = capacity;
    }
  }
  const auto kernel = kernels().sweep[storage()][params_.by_magnitude];
  for_each_piece([&](int64_t i) { kernel(jobs[i]); });
  return jobs;
}

bool Selection::apply_fast(const Guess (&guesses)[2], bool write, Tally& tally) {
  const std::vector<SweepJob> jobs = sweep(guesses, write);
  Tally decided;
  for (const SweepJob& job : jobs) {
    decided.ones += job.tally.ones;
    decided.kept += job.tally.kept;
    decided.grown += job.tally.grown;
  }
  bool found = true;
  for (int g = 0; g < groups() && found; ++g) {
    const int64_t above = !target_.split ? decided.kept + decided.grown
                          : g == 0       ? decided.kept
                                         : decided.grown;
    found = resolve(jobs, g, above);
  }
  if (!found) {
    if (write && before_ == Before::kMask) before_ = Before::kWords;
    return false;
  }
  const Tally late = patch(jobs, write);
  tally = {decided.ones, decided.kept + late.kept, decided.grown + late.grown};
  return true;
}

// Finds a group's threshold among what a sweep has left undecided; `above` entries are in.
bool Selection::resolve(const std::vector<SweepJob>& jobs, int group, int64_t above) {
  if (target_.rank[group] == 0) return true;
  std::vector<KeyArray> arrays;
  int64_t count = 0;
  for (const SweepJob& job : jobs) {
    const Undecided& list = job.undecided[group];
    if (list.overflow) return false;
    arrays.push_back({list.keys, list.count});
    count += list.count;
  }
  const int64_t rank = target_.rank[group] - above;
  if (rank <= 0 || rank > count) return false;
  const KeyRank found = key_of_rank(params_.isa, params_.storage, arrays, rank);
  std::vector<int64_t> equal(jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const auto counted = [&](int64_t key) {
      return count_above(params_.isa, params_.storage, arrays[i], key);
    };
    equal[i] = arrays[i].count == 0 ? 0 : counted(found.key - 1) - counted(found.key);
  }
  set_ties(group, found.key, rank - found.above, equal);
  return true;
}

// The first ties win.
void Selection::set_ties(int group, int64_t key, int64_t ties, const std::vector<int64_t>& equal) {
  thresholds_[group] = {key, ties};
  for (size_t i = 0; i < equal.size(); ++i) {
    ties_[group][i] = std::min(equal[i], ties);
    ties -= ties_[group][i];
  }
}

Tally Selection::patch(const std::vector<SweepJob>& sweeps, bool write) {
  std::vector<Tally> tallies(pieces_.size());
  const auto kernel = kernels().patch[storage()];
  for_each_piece([&](int64_t i) {
    for (int g = 0; g < groups(); ++g) {
      PatchJob job;
      job.mask = pieces_[i].mask;
      job.write = write;
      job.undecided = sweeps[i].undecided[g];
      job.threshold = {thresholds_[g].key, ties_[g][i]};
      kernel(job);
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

// --- The sure way -------------------------------------------------------------------------------

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
    if (above < rank && rank <= from) return set_ties(group, pivot, rank - above, equal);
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
  if (!resolve(sweep(rest, false), group, above_high)) {
    throw std::logic_error("topk_mask: counts do not add up");
  }
}

}  // namespace supertickets
