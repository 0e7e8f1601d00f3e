// The convolution kernels against plain loops.
#pragma once

#include <limits>

#include "cpu/masked_conv2d.h"
#include "cpu/masked_conv2d_pack.h"
#include "kernel_check.h"

namespace kernel_check {

struct ConvCase {
  const char* name;
  int64_t batch, channels, height, width, filters, kernel_height, kernel_width, stride_height,
      stride_width, pad_top, pad_left, pad_bottom, pad_right, dilation_height, dilation_width,
      groups;
  int kept = 33;  // percent; 100: no mask at all
};

inline constexpr ConvCase kConvCases[] = {
    {"3x3", 2, 4, 7, 9, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"no padding", 2, 3, 8, 8, 5, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1},
    {"dense", 2, 3, 6, 5, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 100},
    {"nothing kept", 1, 3, 6, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0},
    {"empty batch", 0, 4, 7, 9, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"no filters", 2, 4, 7, 9, 0, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"no channels", 2, 0, 7, 9, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"one pixel", 3, 4, 1, 1, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"2x2 map", 2, 5, 2, 2, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"4x4 map", 2, 5, 4, 4, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"one row", 2, 3, 1, 35, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"one column", 2, 3, 35, 1, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"wide", 1, 2, 3, 130, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"large", 1, 3, 37, 41, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"many channels", 1, 83, 6, 7, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10},
    {"many filters", 1, 3, 6, 7, 83, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10},
    {"1x1", 2, 8, 7, 5, 6, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},
    {"1x1 of whole lines", 1, 100, 8, 8, 7, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 20},
    {"1x1 stride 2", 2, 8, 7, 8, 6, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},
    {"1x1 padded", 2, 4, 5, 5, 6, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1},
    {"7x7 stride 2", 2, 2, 17, 15, 3, 7, 7, 2, 2, 3, 3, 3, 3, 1, 1, 1},
    {"stride 2, wide", 1, 2, 5, 70, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},
    {"2x4", 2, 3, 8, 7, 4, 2, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"9x8 kernel", 1, 2, 11, 12, 3, 9, 8, 1, 1, 4, 3, 4, 4, 1, 1, 1},
    {"stride 3, 1", 2, 3, 11, 13, 4, 3, 3, 3, 1, 1, 2, 1, 2, 1, 1, 1},
    {"stride 1, 3", 2, 3, 11, 53, 4, 3, 3, 1, 3, 1, 2, 1, 2, 1, 1, 1},
    {"stride over kernel", 2, 3, 13, 11, 4, 2, 2, 5, 5, 0, 0, 0, 0, 1, 1, 1},
    {"dilation 3, 2", 2, 3, 11, 13, 4, 3, 3, 2, 2, 3, 1, 3, 1, 3, 2, 1},
    {"padding over kernel", 2, 3, 5, 6, 4, 3, 3, 1, 1, 5, 5, 5, 5, 1, 1, 1},
    {"lopsided padding", 2, 3, 7, 9, 4, 4, 2, 1, 1, 1, 0, 2, 1, 1, 1, 1},
    {"groups", 2, 6, 7, 7, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},
    {"wide groups", 1, 102, 5, 6, 9, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 3, 10},
    {"depthwise", 2, 9, 8, 7, 9, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 9},
    {"depthwise, many", 1, 70, 6, 6, 140, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 70},
};
// Its output is written past the caches.
inline constexpr ConvCase kStreamedCase = {"streamed", 1, 2, 64, 64, 36, 1, 1, 1,
                                           1,          0, 0, 0,  0,  1,  1, 1};

inline Conv2dShape shape_of(const ConvCase& c) {
  const auto out = [](int64_t in, int64_t pads, int64_t kernel, int64_t dilation, int64_t stride) {
    return (in + pads - dilation * (kernel - 1) - 1) / stride + 1;
  };
  return {
      c.batch,
      c.channels,
      c.height,
      c.width,
      c.filters,
      out(c.height, c.pad_top + c.pad_bottom, c.kernel_height, c.dilation_height, c.stride_height),
      out(c.width, c.pad_left + c.pad_right, c.kernel_width, c.dilation_width, c.stride_width),
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

using Values = std::vector<double>;

inline Values draw_values(int64_t count, int64_t limit) {
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = static_cast<double>(draw(-limit, limit));
  return values;
}

inline const char* layout_name(Layout layout) {
  constexpr const char* kNames[] = {"pixels", "lanes", "images"};
  return kNames[static_cast<int>(layout)];
}

// One convolution and what must come out, in one layout: [N, C, H, W], [G, C, H, W, 16 images] or
// [N, H, W, C].
struct Problem {
  std::string name;
  Layout layout;
  Conv2dShape shape;
  int64_t element;  // images side by side
  int kept;
  Values x, weight, bias, residual, grad_output;
  std::vector<char> mask;
  Values sum, grad_input, grad_weight;  // sum: without bias

  Problem(const ConvCase& item, Layout layout_)
      : name(std::string(item.name) + " in " + layout_name(layout_)),
        layout(layout_),
        shape(shape_of(item)),
        element(layout == Layout::kLanes ? kLine : 1),
        kept(item.kept) {
    if (layout == Layout::kImages) shape.batch *= 9;  // whole groups of 16, and parts of one
    x = draw_values(shape.batch * shape.channels * shape.height * shape.width * element, 1);
    weight = draw_values(shape.filters * shape.taps(), 1);
    bias = draw_values(shape.filters, 3);
    const int64_t outputs = shape.batch * shape.filters * shape.out_height * shape.out_width;
    residual = draw_values(outputs * element, 3);
    grad_output = draw_values(outputs * element, 1);
    sum.resize(grad_output.size());
    grad_input.resize(x.size());
    grad_weight.resize(weight.size());
    mask.resize(weight.size());
    for (char& keep : mask) keep = draw(1, 100) <= kept;
    for (int64_t f = 0; f < shape.filters; ++f) {
      for (int64_t t = 0; t < shape.taps(); ++t) {
        if (mask[static_cast<size_t>(f * shape.taps() + t)] != 0) add_tap(f, t);
      }
    }
  }

  Strided input(void* data) const { return view(data, shape.channels, shape.height, shape.width); }
  Strided output(void* data) const {
    return view(data, shape.filters, shape.out_height, shape.out_width);
  }

  // act(sum + bias + residual)
  Values result(bool with_bias, bool with_residual, bool relu) const {
    Values y = sum;
    const Strided v = output(nullptr);
    for (size_t i = 0; i < y.size(); ++i) {
      const auto filter = static_cast<int64_t>(i) / v.stride_channel % shape.filters;
      if (with_bias) y[i] += bias[static_cast<size_t>(filter)];
      if (with_residual) y[i] += residual[i];
      if (relu) y[i] = std::max(y[i], 0.0);
    }
    return y;
  }

 private:
  Strided view(void* data, int64_t channels, int64_t height, int64_t width) const {
    const int64_t row = width * element, plane = height * row, image = channels * plane;
    if (layout == Layout::kImages) {
      return {data, shape.batch, channels, height, width, image, 1, channels * row, channels};
    }
    return {data, shape.batch, channels, height, width, image, plane, row, element};
  }

  void add_tap(int64_t filter, int64_t tap) {
    const Conv2dShape& s = shape;
    const Strided in = input(nullptr), out = output(nullptr);
    const int64_t kx = tap % s.kernel_width, ky = tap / s.kernel_width % s.kernel_height;
    const int64_t channel =
        filter / s.group_filters() * s.group_channels() + tap / (s.kernel_width * s.kernel_height);
    const auto w = static_cast<size_t>(filter * s.taps() + tap);
    for (int64_t oy = 0; oy < s.out_height; ++oy) {
      for (int64_t ox = 0; ox < s.out_width; ++ox) {
        const int64_t iy = oy * s.stride_height + ky * s.dilation_height - s.pad_top;
        const int64_t ix = ox * s.stride_width + kx * s.dilation_width - s.pad_left;
        if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
        for (int64_t i = 0; i < s.batch * element; ++i) {
          const int64_t n = i / element, lane = i % element;
          const auto from =
              static_cast<size_t>(n * in.stride_batch + channel * in.stride_channel +
                                  iy * in.stride_height + ix * in.stride_width + lane);
          const auto to =
              static_cast<size_t>(n * out.stride_batch + filter * out.stride_channel +
                                  oy * out.stride_height + ox * out.stride_width + lane);
          sum[to] += x[from] * weight[w];
          grad_input[from] += grad_output[to] * weight[w];
          grad_weight[w] += grad_output[to] * x[from];
        }
      }
    }
  }
};

// Runs the kernels on a problem in one storage type.
class ConvCheck {
 public:
  ConvCheck(const Problem& problem, StorageType type, const Parallel& parallel, Isa isa)
      : problem_(problem),
        wide_(type == StorageType::kFloat64 ? type : StorageType::kFloat32),
        name_(problem.name + " on " + label(isa, type)),
        x_(type, problem.x),
        grad_output_(type, problem.grad_output),
        residual_(type, problem.residual),
        weight_(wide_, problem.weight),
        bias_(wide_, problem.bias),
        mask_(new bool[problem.mask.size()]) {
    std::copy(problem.mask.begin(), problem.mask.end(), mask_.get());
    params_.shape = problem.shape;
    params_.storage = type;
    params_.layout = problem.layout;
    params_.parallel = parallel;
    params_.isa = isa;
  }

  void all() const {
    forward();
    packed();
    grad_input();
    grad_weight();
    if (params_.storage != StorageType::kFloat64 && problem_.kept != 100) patterns();
  }

  // Right with the pattern of the mask, of another mask, and of the other pass.
  void patterns() const {
    for (const bool transposed : {false, true}) {
      for (const bool other : {false, true}) {
        MaskedConv2dParams params = with_weight();
        const std::unique_ptr<bool[]> mask(new bool[problem_.mask.size()]);
        for (size_t i = 0; i < problem_.mask.size(); ++i) mask[i] = mask_[i] != other;
        params.mask = mask.get();
        int64_t bytes = 0;
        const auto memory = masked_conv2d_pattern(params, problem_.input(nullptr),
                                                  problem_.output(nullptr), transposed, &bytes);
        expect(is_masked_conv2d_pattern(memory.get(), bytes) &&
                   !is_masked_conv2d_pattern(memory.get(), bytes - 8) &&
                   !is_masked_conv2d_pattern(memory.get(), 7),
               "a pattern is one at its own size only, " + name_);
        ConvCheck with(*this, memory.get());
        with.forward();
        with.grad_input();
        with.grad_weight();
      }
    }
  }

  void forward() const {
    MaskedConv2dParams params = with_weight();
    expect_forward("forward", params, false, false, false);
    expect_forward("forward, bias, relu", params, true, false, true);
    expect_forward("forward, residual", params, false, true, false);
  }

  void packed() const {
    int64_t bytes = 0;
    const auto memory = pack(&bytes);
    MaskedConv2dParams params = params_;
    params.packed = memory.get();
    expect(fits(params, bytes), "the packed weight fits, " + name_);
    expect(!fits(params, bytes - 1) && !fits(params, bytes + 1) && !fits(params, 7),
           "a packed weight of another size is refused, " + name_);
    expect_forward("packed", params, true, true, true);
  }

  // A packed weight with one entry of its header changed is refused.
  void damaged_headers() const {
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
    int64_t bytes = 0;
    const auto memory = pack(&bytes);
    for (size_t entry = 0; entry < sizeof(PackedHeader); entry += sizeof(int64_t)) {
      int64_t value = 0;
      std::memcpy(&value, memory.get() + entry, sizeof(value));
      for (const int64_t other : {value - 1, value + 1, value + 2, value / 2, int64_t{0},
                                  int64_t{-1}, int64_t{1} << 40, kMost, -kMost}) {
        if (other == value) continue;
        const std::unique_ptr<std::byte[]> damaged(new std::byte[static_cast<size_t>(bytes)]);
        std::memcpy(damaged.get(), memory.get(), static_cast<size_t>(bytes));
        std::memcpy(damaged.get() + entry, &other, sizeof(other));
        MaskedConv2dParams params = params_;
        params.packed = damaged.get();
        expect(!fits(params, bytes), "a damaged header is refused, byte " + std::to_string(entry) +
                                         " = " + std::to_string(other) + ", " + name_);
      }
    }
  }

  void grad_input() const {
    const Elements grad(params_.storage, x_.count);
    const bool cleared = grad_output_.count == 0 || problem_.shape.channels == 0 ||
                         grad_input_has_gaps(problem_.shape);
    grad.fill(cleared ? 0 : kUnwritten);
    masked_conv2d_grad_input(with_weight(), problem_.output(grad_output_.data()),
                             problem_.input(grad.data()));
    expect_values("grad_input", grad, problem_.grad_input);
  }

  void grad_weight() const {
    const Elements grad(wide_, weight_.count);
    grad.fill(0);
    masked_conv2d_grad_weight(with_weight(), problem_.output(grad_output_.data()),
                              problem_.input(x_.data()), grad.data());
    expect_values("grad_weight", grad, problem_.grad_weight);
  }

 private:
  static constexpr double kUnwritten = 77;

  // The same with a pattern.
  ConvCheck(const ConvCheck& other, const void* pattern)
      : ConvCheck(other.problem_, other.params_.storage, other.params_.parallel,
                  other.params_.isa) {
    name_ += " with a pattern";
    params_.pattern = pattern;
  }

  MaskedConv2dParams with_weight() const {
    MaskedConv2dParams params = params_;
    params.weight = weight_.data();
    params.mask = problem_.kept == 100 ? nullptr : mask_.get();
    return params;
  }

  std::unique_ptr<std::byte[]> pack(int64_t* bytes) const {
    return masked_conv2d_pack(with_weight(), problem_.input(nullptr), problem_.output(nullptr),
                              bytes);
  }

  bool fits(const MaskedConv2dParams& params, int64_t bytes) const {
    return masked_conv2d_fits(params, problem_.input(nullptr), problem_.output(nullptr), bytes);
  }

  void expect_forward(const std::string& what, MaskedConv2dParams params, bool bias, bool residual,
                      bool relu) const {
    if (bias) params.bias = bias_.data();
    if (residual) params.residual = residual_.data();
    params.relu = relu;
    const Elements y(params.storage, residual_.count, 64);  // 64: large outputs can be streamed
    y.fill(kUnwritten);
    masked_conv2d_forward(params, problem_.input(x_.data()), problem_.output(y.data()));
    expect_values(what, y, problem_.result(bias, residual, relu));
  }

  void expect_values(const std::string& what, const Elements& actual,
                     const Values& expected) const {
    int64_t wrong = 0;
    for (int64_t i = 0; i < actual.count; ++i) {
      wrong += actual.get(i) != expected[static_cast<size_t>(i)];
    }
    expect(wrong == 0, what + ", " + name_ + ": " + std::to_string(wrong) + " entries");
  }

  const Problem& problem_;
  StorageType wide_;
  std::string name_;
  Elements x_, grad_output_, residual_, weight_, bias_;
  std::unique_ptr<bool[]> mask_;
  MaskedConv2dParams params_;
};

}  // namespace kernel_check
