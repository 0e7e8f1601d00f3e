// Runs the CPU kernels on plain pointers, for sanitizer runs that need no Python. Every buffer is a
// heap block of exactly the size the kernel is promised, so one element too far is a fault.
//
//   kernel_check                     all kernels on every usable instruction set, against plain
//   loops kernel_check --plant=address     hands a kernel one element less than promised
//   kernel_check --plant=undefined   hands a kernel a misaligned pointer
//   kernel_check --plant=thread      runs every piece of work on two threads at once
// The --plant runs prove that the sanitizer in use would notice such a fault in a kernel.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu/masked_conv2d.h"
#include "cpu/masked_conv2d_plan.h"
#include "cpu/topk_mask.h"

using namespace supertickets;

namespace {

int failures = 0;
std::mt19937_64 engine(0);  // one fixed stream: the run is the same every time

void expect(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
}

int64_t draw(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(engine() % static_cast<uint64_t>(high - low + 1));
}

// --- Threads
// ---------------------------------------------------------------------------------------

template <int kThreads, bool kTwice>
void run_on_threads(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*),
                    void* context) {
  const int64_t pieces = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, kThreads);
  std::vector<std::thread> workers;
  for (int64_t i = 0; i < pieces; ++i) {
    for (int copy = 0; copy < (kTwice ? 2 : 1); ++copy) {
      workers.emplace_back(body, count * i / pieces, count * (i + 1) / pieces, context);
    }
  }
  for (std::thread& worker : workers) worker.join();
}

Parallel alone() {
  return {[](int64_t count, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
            body(0, count, context);
          },
          1};
}
Parallel three_threads() { return {run_on_threads<3, false>, 3}; }
Parallel colliding_threads() { return {run_on_threads<2, true>, 2}; }

// --- Stored values: integers so small that every type holds them and their sums exactly
// ------------

int64_t bytes_of(StorageType type) {
  return type == StorageType::kFloat64 ? 8 : type == StorageType::kFloat32 ? 4 : 2;
}

uint16_t encode_half(double value) {
  if (value == 0) return std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e01;
  const uint16_t sign = value < 0 ? 0x8000 : 0;
  if (std::isinf(value)) return sign | 0x7c00;
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(value), &exponent);  // [0.5, 1)
  return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + static_cast<int>(fraction * 2048) -
                               1024);
}

double decode_half(uint16_t bits) {
  const int magnitude = bits & 0x7fff;
  const double value =
      magnitude == 0 ? 0 : std::ldexp(1024 + (magnitude & 0x3ff), (magnitude >> 10) - 25);
  return bits & 0x8000 ? -value : value;
}

void store(void* at, StorageType type, double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits = 0;
  std::memcpy(&bits, &narrow, sizeof(bits));
  const uint16_t brain = static_cast<uint16_t>(bits >> 16), half = encode_half(value);
  const void* from[] = {&narrow, &brain, &half, &value};
  std::memcpy(at, from[static_cast<int>(type)], static_cast<size_t>(bytes_of(type)));
}

double load(const void* at, StorageType type) {
  uint32_t bits = 0;
  uint16_t half = 0;
  float narrow = 0;
  double value = 0;
  switch (type) {
    case StorageType::kFloat64:
      std::memcpy(&value, at, sizeof(value));
      return value;
    case StorageType::kFloat16:
      std::memcpy(&half, at, sizeof(half));
      return decode_half(half);
    case StorageType::kBFloat16:
      std::memcpy(&half, at, sizeof(half));
      bits = static_cast<uint32_t>(half) << 16;
      break;
    default:
      std::memcpy(&bits, at, sizeof(bits));
  }
  std::memcpy(&narrow, &bits, sizeof(narrow));
  return narrow;
}

// Elements of one storage type in a heap block of exactly their size.
struct Block {
  StorageType type;
  int64_t count;
  std::unique_ptr<char[]> memory;

  Block(StorageType type_, int64_t count_)
      : type(type_),
        count(count_),
        memory(new char[static_cast<size_t>(count_ * bytes_of(type_))]) {}
  char* at(int64_t i) const { return memory.get() + i * bytes_of(type); }
  double get(int64_t i) const { return load(at(i), type); }
  void set(int64_t i, double value) const { store(at(i), type, value); }
};

enum class Layout { kNchw, kChannelsLast };

// A tensor [N, C, H, W] in an exact block.
struct Image {
  Block block;
  Strided view;

  Image(StorageType type, int64_t n, int64_t c, int64_t h, int64_t w, Layout layout)
      : block(type, n * c * h * w) {
    view = layout == Layout::kNchw
               ? Strided{block.memory.get(), n, c, h, w, c * h * w, h * w, w, 1}
               : Strided{block.memory.get(), n, c, h, w, c * h * w, 1, w * c, c};
  }
  int64_t index(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return n * view.stride_batch + c * view.stride_channel + y * view.stride_height +
           x * view.stride_width;
  }
  double get(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return block.get(index(n, c, y, x));
  }
  void fill() const {
    for (int64_t i = 0; i < block.count; ++i) block.set(i, static_cast<double>(draw(-1, 1)));
  }
};

// --- Convolution
// -----------------------------------------------------------------------------------

struct ConvCase {
  const char* name;
  int64_t batch, channels, height, width, filters, kernel_height, kernel_width, stride_height,
      stride_width, pad_top, pad_left, pad_bottom, pad_right, dilation_height, dilation_width,
      groups;
};

constexpr ConvCase kConvCases[] = {
    {"3x3", 2, 4, 7, 9, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"no padding", 2, 3, 8, 8, 5, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1},
    {"batch 8", 8, 3, 6, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"batch 17", 17, 3, 6, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"batch 33, stride", 33, 2, 7, 7, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},
    {"empty batch", 0, 4, 7, 9, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"no filters", 2, 4, 7, 9, 0, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"one pixel", 3, 4, 1, 1, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"one row", 2, 3, 1, 35, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"one column", 2, 3, 35, 1, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"wide", 1, 2, 3, 130, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"1x1", 2, 8, 7, 5, 6, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},
    {"1x1 stride 2", 2, 8, 7, 8, 6, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},
    {"7x7 stride 2", 2, 2, 17, 15, 3, 7, 7, 2, 2, 3, 3, 3, 3, 1, 1, 1},
    {"2x4", 2, 3, 8, 7, 4, 2, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"stride 3, 1", 2, 3, 11, 13, 4, 3, 3, 3, 1, 1, 2, 1, 2, 1, 1, 1},
    {"stride over kernel", 2, 3, 13, 11, 4, 2, 2, 5, 5, 0, 0, 0, 0, 1, 1, 1},
    {"dilation 3, 2", 2, 3, 11, 13, 4, 3, 3, 2, 2, 3, 1, 3, 1, 3, 2, 1},
    {"padding over kernel", 2, 3, 5, 6, 4, 3, 3, 1, 1, 5, 5, 5, 5, 1, 1, 1},
    {"lopsided padding", 2, 3, 7, 9, 4, 4, 2, 1, 1, 1, 0, 2, 1, 1, 1, 1},
    {"groups", 2, 6, 7, 7, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},
    {"depthwise", 2, 9, 8, 7, 9, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 9},
    {"depthwise, batch 16", 16, 5, 6, 6, 10, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 5},
};

int64_t out_size(int64_t in, int64_t pads, int64_t kernel, int64_t dilation, int64_t stride) {
  return (in + pads - dilation * (kernel - 1) - 1) / stride + 1;
}

Conv2dShape shape_of(const ConvCase& c) {
  return {
      c.batch,
      c.channels,
      c.height,
      c.width,
      c.filters,
      out_size(c.height, c.pad_top + c.pad_bottom, c.kernel_height, c.dilation_height,
               c.stride_height),
      out_size(c.width, c.pad_left + c.pad_right, c.kernel_width, c.dilation_width, c.stride_width),
      c.kernel_height,
      c.kernel_width,
      c.stride_height,
      c.stride_width,
      c.pad_top,
      c.pad_left,
      c.dilation_height,
      c.dilation_width,
      c.groups};
}

// Calls visit(n, filter, oy, ox, channel, iy, ix, weight index) for every product that is summed.
template <class Visit>
void for_each_product(const Conv2dShape& s, const bool* mask, const Visit& visit) {
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t f = 0; f < s.filters; ++f)
      for (int64_t oy = 0; oy < s.out_height; ++oy)
        for (int64_t ox = 0; ox < s.out_width; ++ox)
          for (int64_t t = 0; t < s.taps(); ++t) {
            const int64_t kx = t % s.kernel_width, ky = t / s.kernel_width % s.kernel_height;
            const int64_t c =
                f / s.group_filters() * s.group_channels() + t / (s.kernel_width * s.kernel_height);
            const int64_t iy = oy * s.stride_height + ky * s.dilation_height - s.pad_top;
            const int64_t ix = ox * s.stride_width + kx * s.dilation_width - s.pad_left;
            const bool inside = 0 <= iy && iy < s.height && 0 <= ix && ix < s.width;
            if (inside && mask[f * s.taps() + t]) visit(n, f, oy, ox, c, iy, ix, f * s.taps() + t);
          }
}

void check_conv(const ConvCase& item, StorageType type, Layout layout, const Parallel& parallel,
                Isa isa) {
  const Conv2dShape s = shape_of(item);
  const std::string label = std::string(item.name) + " on " + isa_name(isa) + ", type " +
                            std::to_string(static_cast<int>(type));
  const StorageType wide =
      type == StorageType::kFloat64 ? StorageType::kFloat64 : StorageType::kFloat32;
  const Block weight(wide, s.filters * s.taps()), bias(wide, s.filters);
  const std::unique_ptr<bool[]> mask(new bool[static_cast<size_t>(weight.count)]);
  for (int64_t i = 0; i < weight.count; ++i) {
    weight.set(i, static_cast<double>(draw(-1, 1)));
    mask[i] = draw(0, 2) == 0;
  }
  for (int64_t i = 0; i < bias.count; ++i) bias.set(i, static_cast<double>(draw(-3, 3)));
  const Image x(type, s.batch, s.channels, s.height, s.width, layout);
  const Image y(type, s.batch, s.filters, s.out_height, s.out_width, layout);
  const Image dy(type, s.batch, s.filters, s.out_height, s.out_width, layout);
  const Image dx(type, s.batch, s.channels, s.height, s.width, layout);
  x.fill();
  dy.fill();

  MaskedConv2dParams params{s,        type, weight.memory.get(), mask.get(), bias.memory.get(),
                            parallel, isa};
  masked_conv2d_forward(params, x.view, y.view);
  params.bias = nullptr;
  if (dy.block.count == 0 || grad_input_has_gaps(s)) {
    for (int64_t i = 0; i < dx.block.count; ++i) dx.block.set(i, 0);
  }
  masked_conv2d_grad_input(params, dy.view, dx.view);
  const std::unique_ptr<double[]> dw(new double[static_cast<size_t>(weight.count)]());
  masked_conv2d_grad_weight(params, dy.view, x.view, dw.get());

  std::vector<double> y_sum(static_cast<size_t>(y.block.count));
  std::vector<double> dx_sum(static_cast<size_t>(dx.block.count));
  std::vector<double> dw_sum(static_cast<size_t>(weight.count));
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t f = 0; f < s.filters; ++f)
      for (int64_t oy = 0; oy < s.out_height; ++oy)
        for (int64_t ox = 0; ox < s.out_width; ++ox)
          y_sum[static_cast<size_t>(y.index(n, f, oy, ox))] = bias.get(f);
  for_each_product(s, mask.get(),
                   [&](int64_t n, int64_t f, int64_t oy, int64_t ox, int64_t c, int64_t iy,
                       int64_t ix, int64_t w) {
                     const double in = x.get(n, c, iy, ix), up = dy.get(n, f, oy, ox);
                     y_sum[static_cast<size_t>(y.index(n, f, oy, ox))] += in * weight.get(w);
                     dx_sum[static_cast<size_t>(dx.index(n, c, iy, ix))] += up * weight.get(w);
                     dw_sum[static_cast<size_t>(w)] += up * in;
                   });
  int64_t wrong[3] = {0, 0, 0};
  for (int64_t i = 0; i < y.block.count; ++i)
    wrong[0] += y.block.get(i) != y_sum[static_cast<size_t>(i)];
  for (int64_t i = 0; i < dx.block.count; ++i)
    wrong[1] += dx.block.get(i) != dx_sum[static_cast<size_t>(i)];
  for (int64_t i = 0; i < weight.count; ++i) wrong[2] += dw[i] != dw_sum[static_cast<size_t>(i)];
  const char* names[] = {"forward", "grad_input", "grad_weight"};
  for (int i = 0; i < 3; ++i) {
    expect(wrong[i] == 0,
           std::string(names[i]) + ", " + label + ": " + std::to_string(wrong[i]) + " entries");
  }
}

// --- Top-k
// -----------------------------------------------------------------------------------------

double draw_score() {
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
std::vector<int64_t> best_first(const std::vector<double>& scores, bool by_magnitude) {
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

void check_topk(StorageType type, bool by_magnitude, const std::vector<int64_t>& counts,
                const Parallel& parallel, Isa isa) {
  std::vector<double> all;
  std::vector<Block> blocks;
  std::vector<std::unique_ptr<bool[]>> masks;
  std::vector<Span> spans;
  for (const int64_t count : counts) {
    blocks.emplace_back(type, count);
    masks.emplace_back(new bool[static_cast<size_t>(count)]);
    for (int64_t i = 0; i < count; ++i) {
      all.push_back(draw_score());
      blocks.back().set(i, all.back());
    }
    spans.push_back({blocks.back().memory.get(), masks.back().get(), count});
  }
  const std::string label = std::to_string(all.size()) + " scores on " + isa_name(isa) + ", type " +
                            std::to_string(static_cast<int>(type)) +
                            (by_magnitude ? ", by magnitude" : ", by value");
  const std::vector<int64_t> order = best_first(all, by_magnitude);
  const TopkMaskParams params{type, by_magnitude, parallel, isa};
  const auto total = static_cast<int64_t>(all.size());
  for (const int64_t keep : {int64_t{0}, total / 3, total - total / 20, total}) {
    std::vector<bool> target(all.size());
    for (int64_t i = 0; i < keep; ++i)
      target[static_cast<size_t>(order[static_cast<size_t>(i)])] = true;
    topk_mask(params, spans, keep);
    size_t flat = 0;
    int64_t wrong = 0;
    for (const Span& span : spans)
      for (int64_t i = 0; i < span.count; ++i) wrong += span.mask[i] != target[flat++];
    expect(wrong == 0, "topk_mask of " + label + ": " + std::to_string(wrong) + " entries");

    if (spans.size() > 1) continue;
    for (const int64_t max_swaps : {int64_t{-1}, int64_t{0}, int64_t{3}}) {
      std::vector<int64_t> up, down;  // best to grow first, best to prune first
      for (int64_t i = 0; i < total; ++i) masks[0][i] = draw(0, 3) == 0;
      std::vector<bool> expected(masks[0].get(), masks[0].get() + total);
      for (const int64_t i : order)
        if (target[static_cast<size_t>(i)] && !expected[static_cast<size_t>(i)]) up.push_back(i);
      for (auto i = order.rbegin(); i != order.rend(); ++i)
        if (!target[static_cast<size_t>(*i)] && expected[static_cast<size_t>(*i)])
          down.push_back(*i);
      const size_t swaps = std::min(up.size(), down.size());
      const size_t spared =
          max_swaps < 0 ? 0 : swaps - std::min(swaps, static_cast<size_t>(max_swaps));
      up.resize(up.size() - spared);
      down.resize(down.size() - spared);
      for (const int64_t i : up) expected[static_cast<size_t>(i)] = true;
      for (const int64_t i : down) expected[static_cast<size_t>(i)] = false;
      const MaskChange change = update_topk_mask(params, spans[0], keep, max_swaps);
      expect(std::equal(expected.begin(), expected.end(), masks[0].get()), "update of " + label);
      expect(change.grown == static_cast<int64_t>(up.size()) &&
                 change.pruned == static_cast<int64_t>(down.size()),
             "counts of " + label);
      double threshold = std::numeric_limits<double>::infinity();
      if (keep > 0) threshold = all[static_cast<size_t>(order[static_cast<size_t>(keep - 1)])];
      if (by_magnitude) threshold = std::fabs(threshold);
      const bool same =
          std::isnan(threshold) ? std::isnan(change.threshold) : change.threshold == threshold;
      expect(same, "threshold of " + label);
    }
  }
}

constexpr StorageType kTypes[] = {StorageType::kFloat32, StorageType::kBFloat16,
                                  StorageType::kFloat16, StorageType::kFloat64};

int check_everything() {
  for (const Isa isa : usable_isas()) {
    for (const StorageType type : kTypes) {
      for (const Parallel& parallel : {alone(), three_threads()}) {
        for (const ConvCase& item : kConvCases) {
          for (const Layout layout : {Layout::kNchw, Layout::kChannelsLast}) {
            check_conv(item, type, layout, parallel, isa);
          }
        }
        for (const bool by_magnitude : {false, true}) {
          for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{
                   {0}, {1}, {63}, {65}, {1000}, {100'001}, {17, 0, 300, 1}, {70'000, 3, 50'000}}) {
            check_topk(type, by_magnitude, counts, parallel, isa);
          }
        }
      }
    }
    std::printf("%s: %s\n", isa_name(isa), failures == 0 ? "as the plain loops" : "see above");
  }
  return failures == 0 ? 0 : 1;
}

// Must not return normally under the sanitizer it is named after.
int plant(const std::string& kind) {
  const Conv2dShape s = shape_of(kConvCases[0]);
  const StorageType type = StorageType::kFloat32;
  Image x(type, s.batch, s.channels, s.height, s.width, Layout::kNchw);
  const Image y(type, s.batch, s.filters, s.out_height, s.out_width, Layout::kNchw);
  const Block weight(type, s.filters * s.taps());
  for (int64_t i = 0; i < weight.count; ++i) weight.set(i, 1);
  x.fill();
  const Block shorter(type, x.block.count - 1), longer(type, x.block.count + 1);
  if (kind == "address") x.view.data = shorter.memory.get();
  if (kind == "undefined") x.view.data = longer.memory.get() + 1;
  const Parallel parallel = kind == "thread" ? colliding_threads() : alone();
  masked_conv2d_forward({s, type, weight.memory.get(), nullptr, nullptr, parallel, Isa::kBaseline},
                        x.view, y.view);
  std::fprintf(stderr, "the planted %s fault went unnoticed\n", kind.c_str());
  return 3;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string argument = argc > 1 ? argv[1] : "";
  const std::string prefix = "--plant=";
  if (argument.rfind(prefix, 0) == 0) return plant(argument.substr(prefix.size()));
  return check_everything();
}
