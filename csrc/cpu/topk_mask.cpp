// Radix select over pieces of the input, one piece per thread.
#include "topk_mask.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>

namespace supertickets {
namespace {

constexpr int64_t kClassifyRoom = 1 << 15;   // what a classify kernel may need beyond its keys
constexpr int64_t kPieceElements = 1 << 15;  // below this a second thread costs more than it gives

int64_t element_bytes(StorageType storage) {
  switch (storage) {
    case StorageType::kFloat64:
      return 8;
    case StorageType::kFloat32:
      return 4;
    default:
      return 2;
  }
}

// The pieces of all spans, cut so that each thread gets about the same number of elements, in
// flat order.
std::vector<Span> cut(const TopkMaskParams& params, const std::vector<Span>& spans) {
  int64_t total = 0;
  for (const Span& span : spans) total += span.count;
  const int64_t pieces =
      std::clamp<int64_t>(total / kPieceElements, 1, std::max<int64_t>(params.parallel.threads, 1));
  const int64_t longest = (total + pieces - 1) / pieces;
  std::vector<Span> result;
  for (const Span& span : spans) {
    for (int64_t begin = 0; begin < span.count; begin += longest) {
      result.push_back(
          {static_cast<const char*>(span.scores) + begin * element_bytes(params.storage),
           span.mask + begin, std::min(longest, span.count - begin)});
    }
  }
  return result;
}

// Runs body(piece index) for all pieces, neighbours on the same thread.
template <class Body>
void for_each_piece(const TopkMaskParams& params, const std::vector<Span>& pieces,
                    const Body& body) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  };
  int64_t total = 0;
  for (const Span& piece : pieces) total += piece.count;
  if (total < 2 * kPieceElements) return run(0, static_cast<int64_t>(pieces.size()));
  parallel_for(params.parallel, static_cast<int64_t>(pieces.size()), 1, run);
}

// Finds thresholds. Afterwards it knows for each piece how many scores lie at the threshold, and
// how many of those belong to the set.
class Selector {
 public:
  Selector(const TopkMaskParams& params, const std::vector<Span>& spans)
      : params_(params),
        pieces_(cut(params, spans)),
        equal_(pieces_.size()),
        ties_(pieces_.size()) {
    for (const Span& piece : pieces_) total_ += piece.count;
  }

  const std::vector<Span>& pieces() const { return pieces_; }

  Threshold select(int64_t keep) {
    if (keep == 0) return {std::numeric_limits<uint64_t>::max(), 0};
    Threshold threshold;
    if (total_ < kSampleFrom || !select_in_interval(keep, threshold)) {
      threshold = select_by_digits(keep);
    }
    int64_t wanted = threshold.ties;  // the first ones win
    for (size_t i = 0; i < pieces_.size(); ++i) {
      ties_[i] = std::min(equal_[i], wanted);
      wanted -= ties_[i];
    }
    return threshold;
  }

  SelectJob job(size_t piece, const Threshold& threshold) const {
    const int64_t ties = ties_[piece];
    return {pieces_[piece], {threshold.key, ties}, ties > 0 && ties == equal_[piece]};
  }

 private:
  static constexpr int64_t kSampleFrom = 1 << 14;  // fewer scores are cheap to go through thrice
  static constexpr int64_t kSampleMost = 1 << 16;

  const TopkMaskKernels& kernels() const { return topk_mask_kernels(params_.isa); }
  int storage() const { return static_cast<int>(params_.storage); }

  // Keys of at most one score in 64, one from each stretch of equal length. Any sample gives
  // the same result; a bad one only costs time.
  std::vector<uint64_t> sample() const {
    const int64_t size = std::min(total_ / 64, kSampleMost);
    std::vector<uint64_t> keys(size);
    std::vector<int64_t> indices;
    int64_t taken = 0, first = 0;
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (const Span& piece : pieces_) {
      indices.clear();
      const int64_t begin = taken;
      for (; taken < size; ++taken) {
        const int64_t low = total_ * taken / size, high = total_ * (taken + 1) / size;
        state = state * 6364136223846793005u + 1442695040888963407u;
        const int64_t at = low + static_cast<int64_t>((state >> 33) % (high - low));
        if (at >= first + piece.count) break;
        indices.push_back(std::max(at - first, int64_t{0}));
      }
      kernels().sample[storage()][params_.by_magnitude](
          {piece.scores, indices.data(), taken - begin, keys.data() + begin});
      first += piece.count;
    }
    keys.resize(taken);
    return keys;
  }

  // Two keys that enclose the keep-th largest with near certainty, five standard deviations apart
  // from where a random sample would have it.
  struct Interval {
    uint64_t low = 0, high = std::numeric_limits<uint64_t>::max();
    double share = 1;  // of all scores expected inside
  };
  Interval interval(int64_t keep) const {
    std::vector<uint64_t> keys = sample();
    const double size = static_cast<double>(keys.size());
    const double share = static_cast<double>(keep) / static_cast<double>(total_);
    const double slack = 5 * std::sqrt(size * share * (1 - share)) + 3;
    const auto from_top = [&](double rank) {
      const auto at = keys.begin() + static_cast<int64_t>(rank);
      std::nth_element(keys.begin(), at, keys.end(), std::greater<>());
      return *at;
    };
    Interval result;
    result.share = 2 * slack / size;
    if (size * share - slack >= 0) result.high = from_top(size * share - slack);
    if (size * share + slack < size) result.low = from_top(size * share + slack);
    return result;
  }

  // One pass over the scores; false if the sample misled.
  bool select_in_interval(int64_t keep, Threshold& threshold) {
    const Interval bounds = interval(keep);
    std::vector<ClassifyJob> jobs;
    std::vector<std::vector<uint64_t>> inside(pieces_.size());
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const double expected = bounds.share * static_cast<double>(pieces_[i].count);
      inside[i].resize(static_cast<int64_t>(2 * expected) + kClassifyRoom);
      jobs.push_back({pieces_[i].scores,
                      pieces_[i].count,
                      bounds.low,
                      bounds.high,
                      inside[i].data(),
                      static_cast<int64_t>(inside[i].size()),
                      {},
                      false});
    }
    const auto kernel = kernels().classify[storage()][params_.by_magnitude];
    for_each_piece(params_, pieces_, [&](int64_t i) { kernel(jobs[i]); });
    int64_t counts[4] = {};
    for (size_t i = 0; i < jobs.size(); ++i) {
      if (jobs[i].overflow) return false;
      inside[i].resize(jobs[i].counts[2]);
      for (int k = 0; k < 4; ++k) counts[k] += jobs[i].counts[k];
    }
    const auto [above, at_high, between, at_low] = counts;
    const int64_t rank = keep - above;  // of the threshold among the keys that are not above
    if (rank <= 0) return false;
    if (rank <= at_high) {
      threshold = {bounds.high, rank};
      for (size_t i = 0; i < jobs.size(); ++i) equal_[i] = jobs[i].counts[1];
      return true;
    }
    if (rank <= at_high + between) {
      threshold = select_among(inside, rank - at_high);
      return true;
    }
    threshold = {bounds.low, rank - at_high - between};
    for (size_t i = 0; i < jobs.size(); ++i) equal_[i] = jobs[i].counts[3];
    return bounds.low != bounds.high && threshold.ties <= at_low;
  }

  Threshold select_among(const std::vector<std::vector<uint64_t>>& inside, int64_t rank) {
    std::vector<uint64_t> keys;
    for (const auto& part : inside) keys.insert(keys.end(), part.begin(), part.end());
    const auto at = keys.begin() + (rank - 1);
    std::nth_element(keys.begin(), at, keys.end(), std::greater<>());
    const uint64_t key = *at;
    for (size_t i = 0; i < inside.size(); ++i) {
      equal_[i] = std::count(inside[i].begin(), inside[i].end(), key);
    }
    const auto larger = [key](uint64_t other) { return other > key; };
    return {key, rank - std::count_if(keys.begin(), keys.end(), larger)};
  }

  // Radix select: a pass for each digit, whatever the scores are.
  Threshold select_by_digits(int64_t keep) {
    const int bits = static_cast<int>(8 * element_bytes(params_.storage));
    uint64_t prefix = 0;
    int64_t wanted = keep;  // of the keys that start with prefix
    for (int shift = (bits - 1) / kDigitBits * kDigitBits; shift >= 0; shift -= kDigitBits) {
      const int64_t digit = descend(prefix, shift, wanted);
      prefix = (prefix << kDigitBits) | static_cast<uint64_t>(digit);
    }
    return {prefix, wanted};
  }

  // One digit: counts, and picks the bin in which the wanted-th largest key lies.
  int64_t descend(uint64_t prefix, int shift, int64_t& wanted) {
    const auto kernel = kernels().histogram[storage()][params_.by_magnitude];
    bins_.assign(pieces_.size() * kDigits, 0);
    for_each_piece(params_, pieces_, [&](int64_t i) {
      kernel({pieces_[i].scores, pieces_[i].count, prefix, shift, bins_.data() + i * kDigits});
    });
    for (int64_t digit = kDigits - 1; digit >= 0; --digit) {
      int64_t count = 0;
      for (size_t i = 0; i < pieces_.size(); ++i) count += bins_[i * kDigits + digit];
      if (count >= wanted) {
        for (size_t i = 0; i < pieces_.size(); ++i) equal_[i] = bins_[i * kDigits + digit];
        return digit;
      }
      wanted -= count;
    }
    throw std::logic_error("topk_mask: keep exceeds the number of scores");
  }

  TopkMaskParams params_;
  std::vector<Span> pieces_;
  int64_t total_ = 0;
  std::vector<int64_t> equal_;  // per piece: scores at the threshold
  std::vector<int64_t> ties_;   // per piece: how many of them are in the set
  std::vector<int64_t> bins_;   // [pieces][kDigits]
};

void write_mask(const TopkMaskParams& params, const Selector& selector,
                const Threshold& threshold) {
  const auto kernel =
      topk_mask_kernels(params.isa).write[static_cast<int>(params.storage)][params.by_magnitude];
  for_each_piece(params, selector.pieces(), [&](int64_t i) { kernel(selector.job(i, threshold)); });
}

// One job per piece: counts the entries that differ from the top-k set, and with `write` moves
// them.
std::vector<ChangeJob> change_jobs(const Selector& selector, const Threshold& threshold,
                                   bool write) {
  std::vector<ChangeJob> jobs;
  int64_t first = 0;
  for (size_t i = 0; i < selector.pieces().size(); ++i) {
    jobs.push_back({selector.job(i, threshold), first, write, nullptr, nullptr, {}});
    first += selector.pieces()[i].count;
  }
  return jobs;
}

void run_changes(const TopkMaskParams& params, const Selector& selector,
                 std::vector<ChangeJob>& jobs) {
  const auto kernel =
      topk_mask_kernels(params.isa).change[static_cast<int>(params.storage)][params.by_magnitude];
  for_each_piece(params, selector.pieces(), [&](int64_t i) { kernel(jobs[i]); });
}

// Flips the `count` entries with the best margins: the largest to be grown (ties: lowest index
// first), the smallest to be pruned (ties: highest index first).
void flip_best(std::vector<Change>& entries, int64_t count, bool grow, bool* mask) {
  const auto better = [grow](const Change& a, const Change& b) {
    if (a.key != b.key) return grow ? a.key > b.key : a.key < b.key;
    return grow ? a.index < b.index : a.index > b.index;
  };
  if (count < static_cast<int64_t>(entries.size())) {
    std::nth_element(entries.begin(), entries.begin() + count, entries.end(), better);
  }
  for (int64_t i = 0; i < count; ++i) mask[entries[i].index] = grow;
}

template <class U, class S>
S from_bits(U bits) {
  S value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

double half_value(uint64_t magnitude) {
  if (magnitude == 0x7c00) return std::numeric_limits<double>::infinity();
  const int exponent = static_cast<int>(magnitude >> 10);
  const double fraction = static_cast<double>(magnitude & 0x3ff);
  if (exponent == 0) return std::ldexp(fraction, -24);
  return std::ldexp(1024.0 + fraction, exponent - 25);
}

// The score, or magnitude, that a key stands for.
double value_of(const TopkMaskParams& params, uint64_t key) {
  if (key == 0) return std::numeric_limits<double>::quiet_NaN();
  const int bits = static_cast<int>(8 * element_bytes(params.storage));
  const uint64_t sign = uint64_t{1} << (bits - 1);
  const bool negative = !params.by_magnitude && key < sign;
  const uint64_t magnitude = params.by_magnitude ? key - 1 : negative ? sign - key : key - sign;
  double value = 0;
  switch (params.storage) {
    case StorageType::kFloat32:
      value = from_bits<uint32_t, float>(static_cast<uint32_t>(magnitude));
      break;
    case StorageType::kBFloat16:
      value = from_bits<uint32_t, float>(static_cast<uint32_t>(magnitude) << 16);
      break;
    case StorageType::kFloat16:
      value = half_value(magnitude);
      break;
    case StorageType::kFloat64:
      value = from_bits<uint64_t, double>(magnitude);
      break;
  }
  return negative ? -value : value;
}

}  // namespace

void topk_mask(const TopkMaskParams& params, const std::vector<Span>& spans, int64_t keep) {
  Selector selector(params, spans);
  write_mask(params, selector, selector.select(keep));
}

MaskChange update_topk_mask(const TopkMaskParams& params, const Span& span, int64_t keep,
                            int64_t max_swaps) {
  Selector selector(params, {span});
  const Threshold threshold = selector.select(keep);
  const bool unbounded = max_swaps < 0;
  std::vector<ChangeJob> jobs = change_jobs(selector, threshold, unbounded);
  run_changes(params, selector, jobs);
  MaskChange change{};
  change.threshold =
      keep == 0 ? std::numeric_limits<double>::infinity() : value_of(params, threshold.key);
  for (const ChangeJob& job : jobs) {
    change.grown += job.counts[0];
    change.pruned += job.counts[1];
  }
  if (unbounded) return change;
  const int64_t swaps = std::min(change.grown, change.pruned);
  if (swaps <= max_swaps) {
    write_mask(params, selector, threshold);
    return change;
  }
  std::vector<Change> grown(change.grown), pruned(change.pruned);
  Change* next[2] = {grown.data(), pruned.data()};
  for (ChangeJob& job : jobs) {
    job.grown = next[0];
    job.pruned = next[1];
    next[0] += job.counts[0];
    next[1] += job.counts[1];
  }
  run_changes(params, selector, jobs);
  change.grown -= swaps - max_swaps;
  change.pruned -= swaps - max_swaps;
  flip_best(grown, change.grown, true, span.mask);
  flip_best(pruned, change.pruned, false, span.mask);
  return change;
}

}  // namespace supertickets
