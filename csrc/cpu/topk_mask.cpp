// Radix select over pieces of the input, one piece per thread.
#include "topk_mask.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace supertickets {
namespace {

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

class Selector {
 public:
  Selector(const TopkMaskParams& params, const std::vector<Span>& spans)
      : params_(params), pieces_(cut(params, spans)) {}

  const std::vector<Span>& pieces() const { return pieces_; }

  // Finds the threshold of the `keep` largest, and how many ties each piece contributes.
  Threshold select(int64_t keep) {
    int64_t total = 0;
    for (const Span& piece : pieces_) total += piece.count;
    ties_.assign(pieces_.size(), 0);
    if (keep == 0) return {std::numeric_limits<uint64_t>::max(), 0};
    const int bits = static_cast<int>(8 * element_bytes(params_.storage));
    uint64_t prefix = 0;
    int64_t wanted = keep;  // of the keys that start with prefix
    for (int shift = (bits - 1) / kDigitBits * kDigitBits; shift >= 0; shift -= kDigitBits) {
      const int64_t digit = descend(prefix, shift, wanted);
      prefix = (prefix << kDigitBits) | static_cast<uint64_t>(digit);
    }
    share_ties(wanted);
    return {prefix, wanted};
  }

  SelectJob job(size_t piece, const Threshold& threshold) const {
    const Span& span = pieces_[piece];
    return {span.scores, span.mask, span.count, {threshold.key, ties_[piece]}};
  }

 private:
  // One digit: counts, and picks the bin in which the wanted-th largest key lies.
  int64_t descend(uint64_t prefix, int shift, int64_t& wanted) {
    const auto kernel = topk_mask_kernels(params_.isa)
                            .histogram[static_cast<int>(params_.storage)][params_.by_magnitude];
    bins_.assign(pieces_.size() * kDigits, 0);
    for_each_piece(params_, pieces_, [&](int64_t i) {
      kernel({pieces_[i].scores, pieces_[i].count, prefix, shift, bins_.data() + i * kDigits});
    });
    for (int64_t digit = kDigits - 1; digit >= 0; --digit) {
      int64_t count = 0;
      for (size_t i = 0; i < pieces_.size(); ++i) count += bins_[i * kDigits + digit];
      if (count >= wanted) {
        for (size_t i = 0; i < pieces_.size(); ++i) ties_[i] = bins_[i * kDigits + digit];
        return digit;
      }
      wanted -= count;
    }
    throw std::logic_error("topk_mask: keep exceeds the number of scores");
  }

  // After the last digit ties_ holds each piece's scores at the threshold: the first ones win.
  void share_ties(int64_t wanted) {
    for (int64_t& ties : ties_) {
      ties = std::min(ties, wanted);
      wanted -= ties;
    }
  }

  TopkMaskParams params_;
  std::vector<Span> pieces_;
  std::vector<int64_t> ties_;  // per piece
  std::vector<int64_t> bins_;  // [pieces][kDigits]
};

void write_mask(const TopkMaskParams& params, const Selector& selector,
                const Threshold& threshold) {
  const auto kernel =
      topk_mask_kernels(params.isa).write[static_cast<int>(params.storage)][params.by_magnitude];
  for_each_piece(params, selector.pieces(), [&](int64_t i) { kernel(selector.job(i, threshold)); });
}

// Counts the entries that differ from the top-k set; with `grow` set, collects one kind of them.
struct Changes {
  int64_t counts[2] = {0, 0};  // grown, pruned
  std::vector<Change> entries;
};
Changes find_changes(const TopkMaskParams& params, const Selector& selector,
                     const Threshold& threshold, const bool* grow, int64_t entries) {
  const auto kernel =
      topk_mask_kernels(params.isa).change[static_cast<int>(params.storage)][params.by_magnitude];
  Changes changes;
  changes.entries.resize(entries);
  int64_t first = 0;
  for (size_t i = 0; i < selector.pieces().size(); ++i) {
    Change* to = nullptr;
    if (grow != nullptr) to = changes.entries.data() + changes.counts[*grow ? 0 : 1];
    kernel({selector.job(i, threshold), first, grow != nullptr && *grow, changes.counts, to});
    first += selector.pieces()[i].count;
  }
  return changes;
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
  const Changes found = find_changes(params, selector, threshold, nullptr, 0);
  const auto [grown, pruned] = found.counts;
  MaskChange change{};
  change.threshold =
      keep == 0 ? std::numeric_limits<double>::infinity() : value_of(params, threshold.key);
  const int64_t swaps = std::min(grown, pruned);
  const int64_t spared = max_swaps < 0 ? 0 : std::max<int64_t>(swaps - max_swaps, 0);
  change.grown = grown - spared;
  change.pruned = pruned - spared;
  if (spared == 0) {
    write_mask(params, selector, threshold);
    return change;
  }
  const bool kinds[2] = {true, false};
  Changes up = find_changes(params, selector, threshold, &kinds[0], grown);
  Changes down = find_changes(params, selector, threshold, &kinds[1], pruned);
  flip_best(up.entries, change.grown, true, span.mask);
  flip_best(down.entries, change.pruned, false, span.mask);
  return change;
}

}  // namespace supertickets
