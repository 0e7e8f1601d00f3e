// The mask kernels against a stable sort and plain loops.
#pragma once

#include <limits>
#include <numeric>

#include "cpu/nm_mask.h"
#include "cpu/pack_mask.h"
#include "cpu/topk_mask.h"
#include "kernel_check.h"

namespace kernel_check {

// `fine`: hardly any equal ones.
inline double draw_score(bool fine = false) {
  if (fine) return static_cast<double>(draw(-(1 << 24), 1 << 24)) / 1024;
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

inline void check_update(const TopkMaskParams& params, const Piece& span, int64_t max_swaps,
                         const std::vector<double>& scores, const std::vector<int64_t>& order,
                         int64_t keep, const std::string& name) {
  const std::vector<bool> target = chosen(order, keep);
  std::vector<int64_t> up, down;      // best to grow first, best to prune first
  const bool near = draw(0, 1) == 0;  // few changes, which are remembered
  for (int64_t i = 0; i < span.count; ++i) {
    span.mask[i] = near ? target[static_cast<size_t>(i)] != (draw(0, 99) == 0) : draw(0, 3) == 0;
  }
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
  SwapLimit limit;
  if (max_swaps >= 0) limit.most = max_swaps;
  std::optional<double> hint;
  if (draw(0, 1) == 0) hint = draw_score();
  const MaskChange change = update_topk_mask(params, {span}, keep, limit, hint);
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

inline void check_topk(StorageType type, bool by_magnitude, bool fine,
                       const std::vector<int64_t>& counts, const Parallel& parallel, Isa isa) {
  std::vector<double> all;
  std::vector<Elements> blocks;
  std::vector<std::unique_ptr<bool[]>> masks;
  std::vector<Piece> spans;
  for (const int64_t count : counts) {
    blocks.emplace_back(type, count);
    masks.emplace_back(new bool[static_cast<size_t>(count)]);
    for (int64_t i = 0; i < count; ++i) {
      all.push_back(draw_score(fine));
      blocks.back().set(i, all.back());
    }
    spans.push_back({blocks.back().data(), nullptr, masks.back().get(), count});
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
    for (const Piece& span : spans) {
      for (int64_t i = 0; i < span.count; ++i) wrong += span.mask[i] != target[flat++];
    }
    expect(wrong == 0, "topk_mask of " + name + ": " + std::to_string(wrong) + " entries");
    if (spans.size() > 1) continue;
    for (const int64_t max_swaps : {int64_t{-1}, int64_t{0}, int64_t{3}}) {
      check_update(params, spans[0], max_swaps, all, order, keep, name);
    }
  }
}

// Weights and gradients in random halves: kept is what a sort of each keeps.
inline void check_rigl(const TopkMaskParams& params, int64_t count) {
  std::vector<double> values[2];
  const Elements weight(params.storage, count), grad(params.storage, count);
  std::unique_ptr<bool[]> mask(new bool[static_cast<size_t>(count)]);
  for (int64_t i = 0; i < count; ++i) {
    values[0].push_back(draw_score());
    values[1].push_back(draw_score());
    weight.set(i, values[0].back());
    grad.set(i, values[1].back());
    mask[static_cast<size_t>(i)] = draw(0, 2) == 0;
  }
  std::vector<bool> expected(mask.get(), mask.get() + count);
  std::vector<int64_t> active, inactive;
  for (const int64_t i : best_first(values[0], true)) {
    if (expected[static_cast<size_t>(i)]) active.push_back(i);
  }
  for (const int64_t i : best_first(values[1], true)) {
    if (!expected[static_cast<size_t>(i)]) inactive.push_back(i);
  }
  const size_t swaps = std::min({static_cast<size_t>(count / 20), active.size(), inactive.size()});
  for (size_t i = 0; i < swaps; ++i) {
    expected[static_cast<size_t>(active[active.size() - 1 - i])] = false;
    expected[static_cast<size_t>(inactive[i])] = true;
  }
  const RiglChange change =
      rigl_update(params, {{weight.data(), grad.data(), mask.get(), count}}, count / 20);
  expect(std::equal(expected.begin(), expected.end(), mask.get()) &&
             change.swaps == static_cast<int64_t>(swaps),
         "rigl of " + std::to_string(count) + " on " + label(params.isa, params.storage));
}

inline void check_nm(const Parallel& parallel, StorageType type, Isa isa, int64_t m,
                     int64_t inner) {
  const int64_t blocks = 5, count = blocks * m * inner, n = (m + 1) / 2;
  const Elements scores(type, count);
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(draw_score());
    scores.set(i, values.back());
  }
  std::unique_ptr<bool[]> mask(new bool[static_cast<size_t>(count)]);
  nm_mask(type, true, {scores.data(), mask.get(), blocks, m, inner, n}, parallel, isa);
  int64_t wrong = 0;
  for (int64_t column = 0; column < blocks * inner; ++column) {
    const int64_t first = column / inner * m * inner + column % inner;
    std::vector<double> group;
    for (int64_t j = 0; j < m; ++j) {
      group.push_back(values[static_cast<size_t>(first + j * inner)]);
    }
    const std::vector<bool> target = chosen(best_first(group, true), n);
    for (int64_t j = 0; j < m; ++j) {
      wrong += mask[static_cast<size_t>(first + j * inner)] != target[static_cast<size_t>(j)];
    }
  }
  expect(wrong == 0, "nm_mask of " + std::to_string(m) + " on " + label(isa, type));
}

inline void check_pack(const Parallel& parallel, Isa isa, int64_t count) {
  std::unique_ptr<bool[]> mask(new bool[static_cast<size_t>(count)]);
  std::unique_ptr<bool[]> again(new bool[static_cast<size_t>(count)]);
  std::unique_ptr<uint8_t[]> bits(new uint8_t[static_cast<size_t>((count + 7) / 8)]);
  for (int64_t i = 0; i < count; ++i) mask[static_cast<size_t>(i)] = draw(0, 1) == 0;
  pack_mask(mask.get(), count, bits.get(), parallel, isa);
  bool same = true;
  for (int64_t i = 0; i < count; ++i) {
    same =
        same && (bits[static_cast<size_t>(i / 8)] >> (i % 8) & 1) == mask[static_cast<size_t>(i)];
  }
  unpack_mask(bits.get(), count, again.get(), parallel, isa);
  expect(same && std::equal(mask.get(), mask.get() + count, again.get()),
         "pack_mask of " + std::to_string(count) + " on " + isa_name(isa));
}

inline void check_topk(const Parallel& parallel, StorageType type, Isa isa) {
  for (const bool by_magnitude : {false, true}) {
    for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{
             {0}, {1}, {63}, {65}, {1000}, {100'001}, {17, 0, 300, 1}, {70'000, 3, 50'000}}) {
      const bool wide = type == StorageType::kFloat32 || type == StorageType::kFloat64;
      for (const bool fine : {false, true}) {
        if (fine && !wide) continue;  // most of them would be rounded
        check_topk(type, by_magnitude, fine, counts, parallel, isa);
      }
    }
  }
  for (const int64_t count : {0, 1, 65, 3000, 100'001}) {
    check_rigl({type, true, parallel, isa}, count);
    check_pack(parallel, isa, count);
  }
  for (const int64_t m : {1, 4, 7, 64}) {
    for (const int64_t inner : {1, 9, 37}) check_nm(parallel, type, isa, m, inner);
  }
}

}  // namespace kernel_check
