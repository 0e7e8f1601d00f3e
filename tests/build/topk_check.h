// The top-k kernels against a stable sort.
#pragma once

#include <limits>
#include <numeric>

#include "cpu/topk_mask.h"
#include "kernel_check.h"

namespace kernel_check {

inline double draw_score() {
  switch (draw(0, 15)) {
    case 0:
      return std::numeric_limits<double>::quiet_NaN();
    case 1:
      return std::numeric_limits<double>::infinity();
    case 2:
      return -std::numeric_limits<double>::infinity();
    case 3:
      return -0.0;
    default:
      return static_cast<double>(draw(-40, 40));
  }
}

// Flat indices, best first: number before NaN, larger before smaller, lower index before higher.
inline std::vector<int64_t> best_first(const std::vector<double>& scores, bool by_magnitude) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int64_t i) {
    const double score = scores[static_cast<size_t>(i)];
    return by_magnitude ? std::fabs(score) : score;
  };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const bool nan_a = std::isnan(key(a)), nan_b = std::isnan(key(b));
    return nan_a || nan_b ? !nan_a && nan_b : key(a) > key(b);
  });
  return order;
}

// Flags of the `keep` best.
inline std::vector<bool> chosen(const std::vector<int64_t>& order, int64_t keep) {
  std::vector<bool> flags(order.size());
  for (int64_t i = 0; i < keep; ++i)
    flags[static_cast<size_t>(order[static_cast<size_t>(i)])] = true;
  return flags;
}

inline void check_update(const TopkMaskParams& params, const Span& span, int64_t max_swaps,
                         const std::vector<double>& scores, const std::vector<int64_t>& order,
                         int64_t keep, const std::string& name) {
  const std::vector<bool> target = chosen(order, keep);
  std::vector<int64_t> up, down;  // best to grow first, best to prune first
  for (int64_t i = 0; i < span.count; ++i) span.mask[i] = draw(0, 3) == 0;
  std::vector<bool> expected(span.mask, span.mask + span.count);
  for (const int64_t i : order) {
    if (target[static_cast<size_t>(i)] && !expected[static_cast<size_t>(i)]) up.push_back(i);
  }
  for (auto i = order.rbegin(); i != order.rend(); ++i) {
    if (!target[static_cast<size_t>(*i)] && expected[static_cast<size_t>(*i)]) down.push_back(*i);
  }
  const size_t swaps = std::min(up.size(), down.size());
  const size_t spared = max_swaps < 0 ? 0 : swaps - std::min(swaps, static_cast<size_t>(max_swaps));
  up.resize(up.size() - spared);
  down.resize(down.size() - spared);
  for (const int64_t i : up) expected[static_cast<size_t>(i)] = true;
  for (const int64_t i : down) expected[static_cast<size_t>(i)] = false;
  const MaskChange change = update_topk_mask(params, span, keep, max_swaps);
  expect(std::equal(expected.begin(), expected.end(), span.mask), "update of " + name);
  expect(change.grown == static_cast<int64_t>(up.size()) &&
             change.pruned == static_cast<int64_t>(down.size()),
         "counts of " + name);
  double threshold = std::numeric_limits<double>::infinity();
  if (keep > 0) threshold = scores[static_cast<size_t>(order[static_cast<size_t>(keep - 1)])];
  if (params.by_magnitude) threshold = std::fabs(threshold);
  const bool same =
      std::isnan(threshold) ? std::isnan(change.threshold) : change.threshold == threshold;
  expect(same, "threshold of " + name);
}

inline void check_topk(StorageType type, bool by_magnitude, const std::vector<int64_t>& counts,
                       const Parallel& parallel, Isa isa) {
  std::vector<double> all;
  std::vector<Elements> blocks;
  std::vector<std::unique_ptr<bool[]>> masks;
  std::vector<Span> spans;
  for (const int64_t count : counts) {
    blocks.emplace_back(type, count);
    masks.emplace_back(new bool[static_cast<size_t>(count)]);
    for (int64_t i = 0; i < count; ++i) {
      all.push_back(draw_score());
      blocks.back().set(i, all.back());
    }
    spans.push_back({blocks.back().data(), masks.back().get(), count});
  }
  const std::string name = std::to_string(all.size()) + " scores on " + label(isa, type) +
                           (by_magnitude ? ", by magnitude" : ", by value");
  const std::vector<int64_t> order = best_first(all, by_magnitude);
  const TopkMaskParams params{type, by_magnitude, parallel, isa};
  const auto total = static_cast<int64_t>(all.size());
  for (const int64_t keep : {int64_t{0}, total / 3, total - total / 20, total}) {
    const std::vector<bool> target = chosen(order, keep);
    topk_mask(params, spans, keep);
    size_t flat = 0;
    int64_t wrong = 0;
    for (const Span& span : spans) {
      for (int64_t i = 0; i < span.count; ++i) wrong += span.mask[i] != target[flat++];
    }
    expect(wrong == 0, "topk_mask of " + name + ": " + std::to_string(wrong) + " entries");
    if (spans.size() > 1) continue;
    for (const int64_t max_swaps : {int64_t{-1}, int64_t{0}, int64_t{3}}) {
      check_update(params, spans[0], max_swaps, all, order, keep, name);
    }
  }
}

inline void check_topk(const Parallel& parallel, StorageType type, Isa isa) {
  for (const bool by_magnitude : {false, true}) {
    for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{
             {0}, {1}, {63}, {65}, {1000}, {100'001}, {17, 0, 300, 1}, {70'000, 3, 50'000}}) {
      check_topk(type, by_magnitude, counts, parallel, isa);
    }
  }
}

}  // namespace kernel_check
