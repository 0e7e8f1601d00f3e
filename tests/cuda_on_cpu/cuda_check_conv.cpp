// The convolution kernels against plain loops, on exact-size buffers.
#include <cmath>
#include <cstdlib>
#include <optional>
#include <random>
#include <vector>

#include "cuda/masked_conv2d.h"
#include "cuda_check.h"

namespace cuda_check {
namespace {

using namespace supertickets;
using Floats = std::vector<float>;

Floats numbers(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  Floats values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 17) - 8) / 4;
  return values;
}

// Sums of few small multiples of 1/16: exact in any order.
void expect_equal(const Floats& got, const Floats& wanted, const char* what) {
  expect(got == wanted, what);
}

struct Problem {
  Conv2dShape shape;
  Floats x, weight, grad;
  std::vector<uint8_t> mask;
  Floats out, grad_x, grad_weight;  // by plain loops

  explicit Problem(const Conv2dShape& s)
      : shape(s),
        x(numbers(s.batch * s.channels * s.height * s.width, 1)),
        weight(numbers(s.filters * s.taps(), 2)),
        grad(numbers(s.batch * s.filters * s.out_height * s.out_width, 3)),
        mask(weight.size()),
        out(grad.size()),
        grad_x(x.size()),
        grad_weight(weight.size()) {
    std::mt19937_64 random(4);
    for (uint8_t& flag : mask) flag = random() % 3 == 0;
    for (int64_t n = 0; n < s.batch; ++n) {
      for (int64_t f = 0; f < s.filters; ++f) image(n, f);
    }
  }

  const bool* kept() const { return reinterpret_cast<const bool*>(mask.data()); }

 private:
  void image(int64_t n, int64_t f) {
    const Conv2dShape& s = shape;
    for (int64_t oy = 0; oy < s.out_height; ++oy) {
      for (int64_t ox = 0; ox < s.out_width; ++ox) {
        for (int64_t t = 0; t < s.taps(); ++t) pixel(n, f, oy, ox, t);
      }
    }
  }

  void pixel(int64_t n, int64_t f, int64_t oy, int64_t ox, int64_t t) {
    const Conv2dShape& s = shape;
    const int64_t kernel = s.kernel_height * s.kernel_width, k = t % kernel;
    const int64_t c = f / s.group_filters() * s.group_channels() + t / kernel;
    const int64_t y = oy * s.stride_height - s.pad_top + k / s.kernel_width * s.dilation_height;
    const int64_t x_ = ox * s.stride_width - s.pad_left + k % s.kernel_width * s.dilation_width;
    const auto w = static_cast<size_t>(f * s.taps() + t);
    if (mask[w] == 0 || y < 0 || y >= s.height || x_ < 0 || x_ >= s.width) return;
    const auto in = static_cast<size_t>(((n * s.channels + c) * s.height + y) * s.width + x_);
    const auto o =
        static_cast<size_t>(((n * s.filters + f) * s.out_height + oy) * s.out_width + ox);
    out[o] += weight[w] * x[in];
    grad_x[in] += weight[w] * grad[o];
    grad_weight[w] += x[in] * grad[o];
  }
};

// A map that a kernel reads or writes: as it is, or in lanes.
class Map {
 public:
  Map(Floats& map, int64_t images, int64_t channels, int64_t height, int64_t width, bool lanes)
      : map_(map), in_lanes_(lanes) {
    if (!lanes) return;
    lanes_.resize(static_cast<size_t>((images + 15) / 16 * channels * height * width * 16), 99);
    params_ = {map.data(),     images, channels, height, width,         channels * height * width,
               height * width, width,  1,        false,  lanes_.data(), StorageType::kFloat32};
  }

  void read() {
    if (in_lanes_) cuda::to_lanes(params_, nullptr);
  }
  void write() {
    if (in_lanes_) cuda::from_lanes(params_, nullptr);
  }
  float* data() { return in_lanes_ ? lanes_.data() : map_.data(); }

 private:
  Floats& map_;
  Floats lanes_;
  cuda::LanesParams params_{};
  bool in_lanes_;
};

struct Rows {
  std::vector<char> memory;
  cuda::TapRows rows;
  Rows(cuda::TapRows given, const Problem& p, bool values) : rows(given) {
    memory.resize(static_cast<size_t>(cuda::rows_bytes(rows, StorageType::kFloat32)));
    cuda::put_rows(rows, memory.data());
    cuda::gather_rows(rows, values ? p.weight.data() : nullptr, p.kept(), StorageType::kFloat32,
                      nullptr);
  }
};

cuda::ConvSumParams forward_sum(const Problem& p) {
  cuda::ConvSumParams sum{};
  sum.rows = cuda::forward_rows(p.shape);
  sum.axes = cuda::forward_axes(p.shape);
  sum.in_planes = p.shape.channels;
  sum.group_planes = p.shape.group_channels();
  return sum;
}

cuda::ConvSumParams grad_input_sum(const Problem& p) {
  cuda::ConvSumParams sum{};
  sum.rows = cuda::grad_input_rows(p.shape);
  sum.axes = cuda::grad_input_axes(p.shape);
  sum.in_planes = p.shape.filters;
  sum.group_planes = p.shape.group_filters();
  return sum;
}

void check_sums(Problem& p, bool lanes) {
  const Conv2dShape& s = p.shape;
  const int64_t images = lanes ? (s.batch + 15) / 16 : s.batch, inner = lanes ? 16 : 1;
  Floats out(p.out.size(), 99), grad_x(p.grad_x.size(), 99);
  Map x(p.x, s.batch, s.channels, s.height, s.width, lanes);
  Map y(out, s.batch, s.filters, s.out_height, s.out_width, lanes);
  Map grad(p.grad, s.batch, s.filters, s.out_height, s.out_width, lanes);
  Map back(grad_x, s.batch, s.channels, s.height, s.width, lanes);
  x.read();
  grad.read();
  const auto run = [&](cuda::ConvSumParams sum, Map& from, Map& to) {
    const Rows rows(sum.rows, p, true);
    sum.rows = rows.rows;
    sum.images = images;
    sum.inner = inner;
    sum.in = from.data();
    sum.out = to.data();
    cuda::conv_sum(sum, nullptr);
    to.write();
  };
  run(forward_sum(p), x, y);
  expect_equal(out, p.out, "the sparse convolution differs");
  run(grad_input_sum(p), grad, back);
  expect_equal(grad_x, p.grad_x, "the sparse gradient of the input differs");

  const Rows rows(cuda::forward_rows(s), p, false);
  Floats grad_weight(p.weight.size());
  cuda::ConvDotParams dot{rows.rows,
                          cuda::forward_axes(s),
                          images,
                          s.channels,
                          s.group_channels(),
                          inner,
                          grad.data(),
                          x.data(),
                          nullptr,
                          grad_weight.data(),
                          StorageType::kFloat32};
  std::vector<char> partial(static_cast<size_t>(cuda::dot_bytes(dot)));
  dot.partial = partial.data();
  cuda::conv_dot(dot, nullptr);
  expect_equal(grad_weight, p.grad_weight, "the sparse gradient of the weight differs");
}

void check_depthwise(Problem& p) {
  Floats out(p.out.size(), 99), grad_x(p.grad_x.size(), 99);
  const auto run = [&](cuda::ConvSumParams sum, const Floats& from, Floats& to) {
    sum.images = p.shape.batch;
    sum.inner = 1;
    sum.in = from.data();
    sum.out = to.data();
    cuda::depthwise({sum, false, p.weight.data(), p.kept()}, nullptr);
  };
  run(forward_sum(p), p.x, out);
  expect_equal(out, p.out, "the depthwise convolution differs");
  run(grad_input_sum(p), p.grad, grad_x);
  expect_equal(grad_x, p.grad_x, "the depthwise gradient of the input differs");
}

void check_masked_weight(int64_t count) {
  const Floats weight = numbers(count, 5), grad = numbers(count, 6);
  std::vector<uint8_t> mask(weight.size());
  for (size_t i = 0; i < mask.size(); i += 3) mask[i] = 1;
  Floats out(weight.size()), to_weight(weight.size()), to_scores(weight.size());
  const cuda::MaskedWeightParams params{count, weight.data(),
                                        reinterpret_cast<const bool*>(mask.data()), nullptr,
                                        StorageType::kFloat32};
  cuda::masked_weight(params, out.data(), nullptr);
  cuda::masked_weight_grad(params, grad.data(), to_weight.data(), to_scores.data(), nullptr);
  for (size_t i = 0; i < weight.size(); ++i) {
    expect(out[i] == (mask[i] ? weight[i] : 0), "masked_weight differs");
    expect(to_weight[i] == (mask[i] ? grad[i] : 0), "the masked gradient differs");
    expect(to_scores[i] == grad[i] * weight[i], "the gradient of the scores differs");
  }
}

Conv2dShape shape(int64_t batch, int64_t channels, int64_t filters, int64_t side, int64_t kernel,
                  int64_t stride, int64_t pad, int64_t dilation, int64_t groups) {
  const int64_t out = (side + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  return {batch,  channels, side,   side, filters, out,      out,      kernel,
          kernel, stride,   stride, pad,  pad,     dilation, dilation, groups};
}

}  // namespace

void check_conv() {
  const std::vector<Conv2dShape> shapes = {
      shape(2, 4, 9, 8, 3, 2, 1, 1, 1), shape(17, 4, 3, 3, 3, 1, 1, 1, 1),
      shape(2, 3, 6, 6, 3, 2, 2, 1, 3),  // ThreadSanitizer, which takes minutes, stops here
      shape(1, 3, 5, 7, 3, 1, 1, 1, 1), shape(3, 4, 6, 9, 2, 3, 0, 2, 2),
      shape(1, 1, 1, 1, 1, 1, 0, 1, 1), shape(2, 6, 6, 5, 3, 1, 1, 1, 6)};
#if defined(__SANITIZE_THREAD__)
  constexpr size_t kShapes = 3;
#else
  const size_t kShapes = shapes.size();
#endif
  for (size_t i = 0; i < kShapes; ++i) {
    const Conv2dShape& s = shapes[i];
    Problem problem(s);
    for (const bool lanes : {false, true}) check_sums(problem, lanes);
    if (s.groups == s.channels) check_depthwise(problem);
  }
  for (const int64_t count : {1, 8, 2049}) check_masked_weight(count);
}

}  // namespace cuda_check
