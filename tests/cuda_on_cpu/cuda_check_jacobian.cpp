// The Jacobian kernels against plain loops, on exact-size buffers.
#include <random>
#include <vector>

#include "cuda/jacobian.h"
#include "cuda_check.h"

namespace cuda_check {
namespace {

using namespace supertickets;

// Multiples of 1/4: sums are exact in any order.
template <class Value>
std::vector<Value> numbers(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Value> values(static_cast<size_t>(count));
  for (Value& value : values) value = static_cast<Value>(static_cast<int>(random() % 17) - 8) / 4;
  return values;
}

template <class Value>
std::vector<Value> plain_rows(const Conv2dShape& s, int64_t rows, int64_t images,
                              const std::vector<Value>& grad, const std::vector<Value>& x) {
  const int64_t kernel = s.kernel_height * s.kernel_width, pixels = s.out_height * s.out_width;
  std::vector<Value> out(static_cast<size_t>(rows * s.filters * s.taps()));
  for (int64_t i = 0; i < rows * images * s.filters * pixels * s.taps(); ++i) {
    const int64_t t = i % s.taps(), pixel = i / s.taps() % pixels;
    const int64_t f = i / s.taps() / pixels % s.filters, n = i / s.taps() / pixels / s.filters;
    const int64_t k = t % kernel;
    const int64_t y = pixel / s.out_width * s.stride_height - s.pad_top + k / s.kernel_width;
    const int64_t x_ = pixel % s.out_width * s.stride_width - s.pad_left + k % s.kernel_width;
    if (y < 0 || y >= s.height || x_ < 0 || x_ >= s.width) continue;
    const int64_t channel = f / s.group_filters() * s.group_channels() + t / kernel;
    const int64_t in = ((n % s.batch * s.channels + channel) * s.height + y) * s.width + x_;
    const auto at = static_cast<size_t>((n / images * s.filters + f) * s.taps() + t);
    out[at] += grad[static_cast<size_t>((n * s.filters + f) * pixels + pixel)] *
               x[static_cast<size_t>(in)];
  }
  return out;
}

template <class Value>
void check_rows(const Conv2dShape& s, int64_t rows, int64_t images) {
  const auto grad = numbers<Value>(rows * images * s.filters * s.out_height * s.out_width, 1);
  const auto x = numbers<Value>(s.batch * s.channels * s.height * s.width, 2);
  const auto wanted = plain_rows(s, rows, images, grad, x);
  const auto weight = numbers<Value>(s.filters * s.taps(), 3), scale = numbers<Value>(s.filters, 4);
  std::vector<Value> out(wanted.size(), 99), dots(static_cast<size_t>(rows * s.filters), 99);
  cuda::ConvRowsParams params{s,       rows,    images,  sizeof(Value) == 8, grad.data(), x.data(),
                              nullptr, nullptr, nullptr, out.data(),         dots.data()};
  cuda::conv_rows(params, nullptr);
  expect(out == wanted, "jacobian_conv2d_rows differs");
  params.scale = scale.data();
  params.weight = weight.data();
  cuda::conv_rows(params, nullptr);
  for (size_t i = 0; i < dots.size(); ++i) {
    const size_t taps = static_cast<size_t>(s.taps()), f = i % static_cast<size_t>(s.filters);
    Value dot = 0;
    for (size_t t = 0; t < taps; ++t) {
      dot += wanted[i * taps + t] * weight[f * taps + t];
      expect(out[i * taps + t] == wanted[i * taps + t] * scale[f], "a scaled row differs");
    }
    expect(dots[i] == dot, "a row's product with the weight differs");
  }
}

template <class Value>
void check_gram(int64_t first, int64_t second, int64_t columns, bool same) {
  const auto one = numbers<Value>(first * columns, 5), other = numbers<Value>(second * columns, 6);
  const auto& two = same ? one : other;
  std::vector<double> gram(static_cast<size_t>(first * second), 3);
  cuda::GramParams params{one.data(), two.data(),         first,   second,     columns,
                          same,       sizeof(Value) == 8, nullptr, gram.data()};
  std::vector<double> partial(static_cast<size_t>(cuda::gram_bytes(params)) / sizeof(double));
  params.partial = partial.data();
  cuda::add_gram(params, nullptr);
  for (int64_t i = 0; i < first; ++i) {
    for (int64_t j = 0; j < second; ++j) {
      double sum = 3;
      for (int64_t c = 0; c < columns; ++c) {
        sum += static_cast<double>(one[static_cast<size_t>(i * columns + c)]) *
               static_cast<double>(two[static_cast<size_t>(j * columns + c)]);
      }
      expect(gram[static_cast<size_t>(i * second + j)] == sum, "jacobian_gram_ differs");
    }
  }
}

template <class Value>
void check_type() {
  check_rows<Value>({2, 3, 5, 5, 9, 5, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 3, 2);
  check_rows<Value>({2, 8, 4, 4, 66, 2, 2, 3, 3, 2, 2, 1, 1, 1, 1, 1}, 1, 2);
  check_rows<Value>({1, 4, 5, 4, 4, 3, 2, 3, 3, 1, 1, 0, 0, 1, 1, 4}, 2, 1);
  check_gram<Value>(3, 3, 17, true);
  check_gram<Value>(3, 5, 2049, false);
  check_gram<Value>(65, 65, 17, true);
}

}  // namespace

void check_jacobian() {
  check_type<float>();
  check_type<double>();
}

}  // namespace cuda_check
