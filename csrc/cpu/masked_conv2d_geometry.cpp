#include "masked_conv2d_geometry.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>

namespace supertickets {
namespace {

int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

Axis forward_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                  int64_t dilation) {
  Axis axis;
  axis.count = out;
  axis.in_size = in;
  axis.in_step = stride;
  for (int64_t k = 0; k < kernel; ++k) {
    axis.shift.push_back(k * dilation - pad);
    axis.kernel.push_back(k);
  }
  return axis;
}

// The positions phase, phase + stride, ... of x: grad_output row q + shift reaches the q-th of
// them.
Axis grad_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
               int64_t dilation, int64_t phase) {
  Axis axis;
  axis.count = divide_up(in - phase, stride);
  axis.out_first = phase;
  axis.out_step = stride;
  axis.in_size = out;
  for (int64_t k = 0; k < kernel; ++k) {
    const int64_t distance = phase + pad - k * dilation;
    if (distance % stride != 0) continue;
    axis.shift.push_back(distance / stride);
    axis.kernel.push_back(k);
  }
  return axis;
}

// Taps whose inputs interleave share slots; the others get slots of their own.
Slots merge(const Axis& axis, int64_t outputs) {
  const int64_t step = axis.in_step;
  const auto residue = [&](int64_t shift) { return ((shift % step) + step) % step; };
  std::vector<size_t> order(axis.shift.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int64_t ra = residue(axis.shift[a]), rb = residue(axis.shift[b]);
    return ra != rb ? ra < rb : axis.shift[a] < axis.shift[b];
  });
  Slots slots;
  slots.tap.resize(axis.shift.size());
  int64_t next = kOutside;  // the position that would continue the present run of slots
  for (const size_t k : order) {
    const int64_t first = axis.shift[k], end = first + outputs * step;
    const int64_t present = static_cast<int64_t>(slots.position.size());
    const bool joins = next != kOutside && residue(next) == residue(first) && first <= next;
    slots.tap[k] = joins ? present - (next - first) / step : present;
    for (int64_t p = joins ? next : first; p < end; p += step) slots.position.push_back(p);
    next = end;
  }
  return slots;
}

// One slot per tap: lines of pixels at different columns have nothing in common.
Slots separate(const Axis& axis) {
  Slots slots;
  slots.position = axis.shift;
  slots.tap.resize(axis.shift.size());
  std::iota(slots.tap.begin(), slots.tap.end(), int64_t{0});
  return slots;
}

// Eleven twelfths of the first cache: the rest is for taps and sums passing through, and 16
// channels of a 1x7 tile of a 3x3 layer fit 32 KiB, a whole number of groups of n:m masks. A kernel
// of one position has so few taps in each block of channels that fewer blocks are worth some
// misses: fifteen twelfths, tuned on Zen 3 (32 KiB).
int64_t buffer_lines(const Correlation& c, int64_t element_bytes) {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  static const int64_t size = sysconf(_SC_LEVEL1_DCACHE_SIZE);
#else
  static const int64_t size = 0;
#endif
  const int64_t bytes = (size > 0 ? size : 32 * 1024) / 12 * (c.kernel_size() == 1 ? 15 : 11);
  return bytes / (kLine * element_bytes);
}

// Lines of the last tile along an axis, and how many whole ones come before it.
struct Cut {
  int64_t whole, rest;
};
Cut cut(int64_t count, int64_t unit) { return {count / unit, count % unit}; }

// Time of a tile of this many lines per channel and output plane, in multiply-adds of a line at a
// tenth of the weights: the taps with their loop, the sums that wait between blocks, and the copy
// of the input, which all planes share.
double tile_time(const Correlation& c, int64_t lines, int64_t slots, int64_t block_lines,
                 double copy) {
  if (lines == 0) return 0;
  const double taps = 0.1 * static_cast<double>(c.y.shift.size() * c.x.shift.size());
  const double channels = static_cast<double>(std::min<int64_t>(
      std::max<int64_t>(1, c.group_in), std::max<int64_t>(1, block_lines / slots)));
  const double once = channels < static_cast<double>(c.group_in) ? 2.0 : 1.0;
  const double tile = static_cast<double>(lines);
  return taps * (tile + 1.5) + once * tile / channels +
         copy * static_cast<double>(slots) / static_cast<double>(c.group_out);
}

void lay_out(Tiling& tiling, const Correlation& c, int64_t block_lines) {
  const int64_t slots_y = static_cast<int64_t>(tiling.y.position.size());
  const int64_t slots_x = static_cast<int64_t>(tiling.x.position.size());
  // Lanes: neighbours of a row follow one another; pixels: the rows of one tap column do.
  const int64_t pitch_y = (tiling.lanes ? slots_x : 1) * kLine;
  const int64_t pitch_x = (tiling.lanes ? 1 : slots_y) * kLine;
  tiling.row_step = pitch_y;
  tiling.channel_pitch = slots_y * slots_x * kLine;
  int64_t fits = std::max<int64_t>(1, block_lines / std::max<int64_t>(1, slots_y * slots_x));
  if (fits > kLine) fits -= fits % kLine;  // channels are read in whole lines
  const int64_t group_in = std::max<int64_t>(1, c.group_in);
  // A block is a part of a group, or whole groups.
  tiling.block = fits < group_in ? divide_up(group_in, divide_up(group_in, fits))
                                 : std::min(c.groups, fits / group_in) * group_in;
  tiling.tap.clear();
  for (const int64_t ky : tiling.y.tap) {
    for (const int64_t kx : tiling.x.tap) {
      tiling.tap.push_back(static_cast<int32_t>(ky * pitch_y + kx * pitch_x));
    }
  }
}

// Cheapest of `count` forms by `time`.
template <class Form, class Time>
TileForm cheapest(int64_t count, const Form& form, const Time& time) {
  TileForm best = form(0);
  double least = time(best);
  for (int64_t i = 1; i < count; ++i) {
    const TileForm other = form(i);
    const double now = time(other);
    if (now >= least) continue;
    least = now;
    best = other;
  }
  return best;
}

// Slots that tiles of 1, 2, ... outputs need along an axis.
std::vector<int64_t> slot_counts(const Axis& axis, int64_t most) {
  std::vector<int64_t> counts = {0};
  for (int64_t outputs = 1; outputs <= most; ++outputs) {
    counts.push_back(static_cast<int64_t>(merge(axis, outputs).position.size()));
  }
  return counts;
}

TileForm best_lanes(const Correlation& c, int64_t max_lines, int64_t block_lines) {
  constexpr double kCopy = 1.0;
  const int64_t most_rows = std::min<int64_t>({kTileRows, max_lines, c.y.count});
  const int64_t most_columns = std::min(max_lines, c.x.count);
  const auto slots_y = slot_counts(c.y, most_rows), slots_x = slot_counts(c.x, most_columns);
  return cheapest(
      most_rows * most_columns,
      [&](int64_t i) {
        const int64_t rows = i / most_columns + 1;
        return TileForm{true, rows, std::min(i % most_columns + 1, max_lines / rows), 1};
      },
      [&](const TileForm& t) {
        const Cut y = cut(c.y.count, t.rows), x = cut(c.x.count, t.columns);
        const int64_t slots = slots_y[t.rows] * slots_x[t.columns];
        const auto time = [&](int64_t lines) {
          return tile_time(c, lines, slots, block_lines, kCopy);
        };
        const auto row = [&](int64_t rows) {
          return static_cast<double>(x.whole) * time(rows * t.columns) + time(rows * x.rest);
        };
        return static_cast<double>(y.whole) * row(t.rows) + row(y.rest);
      });
}

TileForm best_pixels(const Correlation& c, int64_t max_lines, int64_t block_lines) {
  constexpr int64_t kFolds = 4;  // 1, 2, 4, 8
  // A line that is gathered from parts of rows costs much more than one of neighbours.
  const auto copy = [&](int64_t fold) {
    return fold == 1 && c.x.in_step == 1 ? 2.0 : 4.0 * static_cast<double>(fold);
  };
  const auto slots_y = slot_counts(c.y, max_lines);
  return cheapest(
      max_lines * kFolds,
      [&](int64_t i) {
        const int64_t fold = int64_t{1} << i % kFolds;
        return TileForm{false, std::min(i / kFolds + 1, divide_up(c.y.count, fold)), 1, fold};
      },
      [&](const TileForm& t) {
        const Cut y = cut(c.y.count, t.rows * t.fold);
        const int64_t slots = slots_y[t.rows] * static_cast<int64_t>(c.x.shift.size());
        const auto time = [&](int64_t lines) {
          return tile_time(c, lines, slots, block_lines, copy(t.fold));
        };
        return static_cast<double>(divide_up(c.x.count, t.segment())) *
               (static_cast<double>(y.whole) * time(t.rows) + time(std::min(t.rows, y.rest)));
      });
}

}  // namespace

Correlation forward_correlation(const Conv2dShape& s) {
  Correlation c;
  c.y = forward_axis(s.height, s.out_height, s.kernel_height, s.stride_height, s.pad_top,
                     s.dilation_height);
  c.x = forward_axis(s.width, s.out_width, s.kernel_width, s.stride_width, s.pad_left,
                     s.dilation_width);
  c.groups = s.groups;
  c.group_in = s.group_channels();
  c.group_out = s.group_filters();
  c.kernel_height = s.kernel_height;
  c.kernel_width = s.kernel_width;
  return c;
}

std::vector<Correlation> grad_input_correlations(const Conv2dShape& s) {
  std::vector<Correlation> phases;
  for (int64_t py = 0; py < std::min(s.stride_height, s.height); ++py) {
    for (int64_t px = 0; px < std::min(s.stride_width, s.width); ++px) {
      Correlation c;
      c.y = grad_axis(s.height, s.out_height, s.kernel_height, s.stride_height, s.pad_top,
                      s.dilation_height, py);
      c.x = grad_axis(s.width, s.out_width, s.kernel_width, s.stride_width, s.pad_left,
                      s.dilation_width, px);
      if (c.y.shift.empty() || c.x.shift.empty()) continue;
      c.groups = s.groups;
      c.group_in = s.group_filters();
      c.group_out = s.group_channels();
      c.kernel_height = s.kernel_height;
      c.kernel_width = s.kernel_width;
      c.transposed = true;
      phases.push_back(c);
    }
  }
  return phases;
}

bool grad_input_has_gaps(const Conv2dShape& s) {
  const auto phases = grad_input_correlations(s);
  return static_cast<int64_t>(phases.size()) !=
         std::min(s.stride_height, s.height) * std::min(s.stride_width, s.width);
}

TileForm best_form(const Correlation& c, bool lanes, int64_t max_lines, int64_t element_bytes) {
  const int64_t block_lines = buffer_lines(c, element_bytes);
  return lanes ? best_lanes(c, max_lines, block_lines) : best_pixels(c, max_lines, block_lines);
}

Tiling tile_correlation(const Correlation& c, const TileForm& form, int64_t element_bytes) {
  Tiling t;
  static_cast<TileForm&>(t) = form;
  t.y = merge(c.y, t.rows);
  t.x = t.lanes ? merge(c.x, t.columns) : separate(c.x);
  lay_out(t, c, buffer_lines(c, element_bytes));
  return t;
}

}  // namespace supertickets
