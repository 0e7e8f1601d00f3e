#include "topk_mask_sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "topk_mask_arrays.h"
#include "topk_mask_key_value.h"

namespace supertickets {
namespace {

constexpr int64_t kLineBytes = 64;    // neighbours that are taken together: one miss of the cache
constexpr int64_t kAhead = 32;        // lines that are fetched early
constexpr double kSigmas = 3;         // from an interval's middle to its ends
constexpr int64_t kHintLines = 8;     // a hint needs one line in so many
constexpr double kHintShare = 0.001;  // of all scores, on either side of a hint

}  // namespace

ScoreSample::ScoreSample(const TopkMaskParams& params, const std::vector<Piece>& pieces,
                         int64_t total, bool split)
    : params_(params),
      pieces_(pieces),
      total_(total),
      split_(split),
      key_bytes_(key_bits(params.storage) / 8),
      line_(kLineBytes / key_bytes_) {}

// n^(2/3) scores: drawing more, and looking at the scores in a wider interval, then weigh the same.
void ScoreSample::draw() {
  const double size = std::cbrt(static_cast<double>(total_));
  draw_lines(std::max<int64_t>(static_cast<int64_t>(size * size) / line_, 64));
}

// The line that an entry lies in. It does not cross a line of the cache: the other one would not
// have been fetched.
ScoreSample::Line ScoreSample::line_at(const Piece& piece, int64_t entry) const {
  const int64_t count = std::min(line_, piece.count);
  const auto address = reinterpret_cast<uintptr_t>(piece.scores) / static_cast<size_t>(key_bytes_);
  const auto past =
      static_cast<int64_t>((address + static_cast<size_t>(entry)) % static_cast<size_t>(line_));
  return {&piece, std::clamp<int64_t>(entry - past, 0, piece.count - count), count};
}

// One line from each stretch of equal length.
void ScoreSample::draw_lines(int64_t lines) {
  std::vector<Line> starts;
  starts.reserve(lines);
  uint64_t state = 0x9e3779b97f4a7c15u;
  int64_t first = 0;
  auto piece = pieces_.begin();
  const double stretch = static_cast<double>(total_) / static_cast<double>(lines);
  for (int64_t line = 0; line < lines; ++line) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const double place = static_cast<double>(line) + static_cast<double>(state >> 11) * 0x1p-53;
    const int64_t at = std::min(static_cast<int64_t>(place * stretch), total_ - 1);
    for (; at >= first + piece->count; ++piece) first += piece->count;
    starts.push_back(line_at(*piece, at - first));
  }
  for (Group& group : groups_) {
    group.keys.resize(static_cast<size_t>((lines + 1) * kLineBytes));
    group.counts.clear();
    group.size = 0;
  }
  const auto fetch = [&](const Line& start) {
    __builtin_prefetch(static_cast<const char*>(start.piece->scores) + start.begin * key_bytes_);
    if (!split_) return;
    __builtin_prefetch(start.piece->mask + start.begin);
    if (start.piece->other == nullptr) return;
    __builtin_prefetch(static_cast<const char*>(start.piece->other) + start.begin * key_bytes_);
  };
  for (int64_t line = 0; line < lines; ++line) {
    if (line + kAhead < lines) fetch(starts[line + kAhead]);
    take(*starts[line].piece, starts[line].begin, starts[line].count);
  }
}

void ScoreSample::take(const Piece& piece, int64_t begin, int64_t count) {
  const auto kernel =
      topk_mask_kernels(params_.isa).keys[static_cast<int>(params_.storage)][params_.by_magnitude];
  const auto scores = [&](const void* from) {
    return static_cast<const char*>(from) + begin * key_bytes_;
  };
  if (!split_) {
    Group& group = groups_[0];
    kernel({scores(piece.scores), count, group.keys.data() + group.size * key_bytes_});
    group.size += count;
    group.counts.push_back(static_cast<uint32_t>(count));
    return;
  }
  int64_t keys[2][kLineBytes / sizeof(int64_t)];
  kernel({scores(piece.scores), count, keys[0]});
  kernel({scores(piece.other == nullptr ? piece.scores : piece.other), count, keys[1]});
  uint32_t counts[2] = {};
  for (int64_t i = 0; i < count; ++i) {
    const int g = piece.mask[begin + i] ? 0 : 1;
    Group& group = groups_[g];
    std::memcpy(group.keys.data() + group.size * key_bytes_,
                reinterpret_cast<const char*>(keys[g]) + i * key_bytes_,
                static_cast<size_t>(key_bytes_));
    ++group.size;
    ++counts[g];
  }
  for (int g = 0; g < 2; ++g) groups_[g].counts.push_back(counts[g]);
}

int64_t ScoreSample::key_at(const Group& group, int64_t i) const {
  const char* at = group.keys.data() + i * key_bytes_;
  const auto read = [at](auto key) {
    std::memcpy(&key, at, sizeof(key));
    return static_cast<int64_t>(key);
  };
  return key_bytes_ == 8 ? read(int64_t{}) : key_bytes_ == 4 ? read(int32_t{}) : read(int16_t{});
}

int64_t ScoreSample::key_of_rank(int group, int64_t rank) const {
  const Group& own = groups_[group];
  return supertickets::key_of_rank(params_.isa, params_.storage, {{own.keys.data(), own.size}},
                                   rank)
      .key;
}

int64_t ScoreSample::count_above(int group, int64_t key) const {
  const Group& own = groups_[group];
  return supertickets::count_above(params_.isa, params_.storage, {own.keys.data(), own.size}, key);
}

// Of the number of sampled keys above `key`, a share of all: neighbours may resemble each other, so
// it is taken from how much the lines differ. No less than that of independent draws.
double ScoreSample::deviation(int group, int64_t key, double share) const {
  const Group& own = groups_[group];
  double sum = 0;
  int64_t i = 0;
  for (const uint32_t count : own.counts) {
    int64_t above = 0;
    for (const int64_t end = i + count; i < end; ++i) above += key_at(own, i) > key ? 1 : 0;
    const double error = static_cast<double>(above) - share * count;
    sum += error * error;
  }
  return std::sqrt(std::max(sum, static_cast<double>(own.size) * share * (1 - share)));
}

std::optional<Guess> ScoreSample::guess(const Target& target, int group) const {
  const Group& own = groups_[group];
  const int64_t members = target.split ? target.size[group] : total_;
  Guess result;
  result.interval = {kEveryKey, kNoKey, kNoKey};
  result.share = 1;
  if (own.size == 0) return result;
  const double size = static_cast<double>(own.size);
  const double share = static_cast<double>(target.rank[group]) / static_cast<double>(members);
  const double rank = share * size;
  const auto middle = std::clamp(static_cast<int64_t>(rank) + 1, int64_t{1}, own.size);
  result.interval.middle = key_of_rank(group, middle);
  const double slack = kSigmas * deviation(group, result.interval.middle, share) + 3;
  if (rank - slack >= 1)
    result.interval.high = key_of_rank(group, static_cast<int64_t>(rank - slack));
  if (rank + slack <= size) {
    result.interval.below = key_of_rank(group, static_cast<int64_t>(rank + slack)) - 1;
  }
  const int64_t inside =
      count_above(group, result.interval.below) - count_above(group, result.interval.high);
  if (static_cast<double>(inside) > 2 * (2 * slack) + 16) return std::nullopt;
  result.share = 2 * slack / size * static_cast<double>(members) / static_cast<double>(total_);
  return result;
}

std::optional<Guess> ScoreSample::around(int64_t hint, int64_t rank) {
  const double side = std::cbrt(static_cast<double>(total_));
  draw_lines(std::max<int64_t>(static_cast<int64_t>(side * side) / (line_ * kHintLines), 64));
  const double size = static_cast<double>(groups_[0].size);
  const double share = static_cast<double>(rank) / static_cast<double>(total_);
  const auto place = count_above(0, hint);  // sampled keys above the hint
  const double window = std::max(kHintShare * size, 2.0);
  const double off = std::fabs(static_cast<double>(place) - share * size);
  if (off > kSigmas * deviation(0, hint, share) + window) return std::nullopt;
  const auto reach = static_cast<int64_t>(window);
  if (place - reach < 1 || place + reach > groups_[0].size) return std::nullopt;
  Guess result;
  result.interval = {key_of_rank(0, place + reach) - 1, key_of_rank(0, place - reach), hint};
  result.share = 2 * window / size;
  const int64_t inside =
      count_above(0, result.interval.below) - count_above(0, result.interval.high);
  if (inside > 4 * reach + 16) return std::nullopt;
  return result;
}

std::optional<int64_t> ScoreSample::between(int group, int64_t low, int64_t high,
                                            double share) const {
  std::vector<int64_t> keys;
  for (int64_t i = 0; i < groups_[group].size; ++i) {
    const int64_t key = key_at(groups_[group], i);
    if (low < key && key <= high) keys.push_back(key);
  }
  if (keys.empty()) return std::nullopt;
  const auto rank = static_cast<int64_t>(share * static_cast<double>(keys.size()));
  const auto at = keys.begin() + std::min(rank, static_cast<int64_t>(keys.size()) - 1);
  std::nth_element(keys.begin(), at, keys.end(), std::greater<>());
  return *at;
}

}  // namespace supertickets
