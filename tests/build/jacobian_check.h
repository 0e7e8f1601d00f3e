// The Jacobian kernels against plain loops.
#pragma once

#include "cpu/jacobian.h"
#include "kernel_check.h"

namespace kernel_check {

struct RowsCase {
  int64_t channels, filters, groups, kernel, stride, pad, dilation, images_per_row;
};

inline constexpr RowsCase kRowsCases[] = {
    {3, 5, 1, 3, 1, 1, 1, 1},    {3, 9, 1, 1, 1, 0, 1, 2}, {4, 6, 2, 3, 2, 1, 1, 1},
    {17, 17, 17, 3, 1, 2, 2, 2}, {2, 3, 1, 3, 1, 4, 1, 1},
};

template <class A>
std::vector<A> plain_rows(const Conv2dShape& s, int64_t rows, int64_t per_row,
                          const std::vector<A>& grad, const std::vector<A>& x) {
  std::vector<A> out(static_cast<size_t>(rows * s.filters * s.taps()), A{0});
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  for (int64_t image = 0; image < rows * per_row; ++image) {
    for (int64_t o = 0; o < s.filters; ++o) {
      for (int64_t tap = 0; tap < s.taps(); ++tap) {
        const int64_t j = tap % s.kernel_width, i = tap / s.kernel_width % s.kernel_height;
        const int64_t c =
            o / s.group_filters() * s.group_channels() + tap / (s.kernel_height * s.kernel_width);
        A sum{0};
        for (int64_t p = 0; p < s.out_height * s.out_width; ++p) {
          const int64_t y = p / s.out_width * s.stride_height + i * s.dilation_height - s.pad_top;
          const int64_t z = p % s.out_width * s.stride_width + j * s.dilation_width - s.pad_left;
          if (y < 0 || y >= s.height || z < 0 || z >= s.width) continue;
          const int64_t source = (image % s.batch * s.channels + c) * s.height + y;
          sum += grad[at((image * s.filters + o) * s.out_height * s.out_width + p)] *
                 x[at(source * s.width + z)];
        }
        out[at((image / per_row * s.filters + o) * s.taps() + tap)] += sum;
      }
    }
  }
  return out;
}

template <class A>
void check_rows(const RowsCase& c, const Parallel& parallel, StorageType type, Isa isa) {
  const int64_t out = (6 + 2 * c.pad - c.dilation * (c.kernel - 1) - 1) / c.stride + 1;
  const Conv2dShape shape{2,     c.channels, 6,          6,        c.filters, out,
                          out,   c.kernel,   c.kernel,   c.stride, c.stride,  c.pad,
                          c.pad, c.dilation, c.dilation, c.groups};
  const int64_t rows = c.images_per_row == 1 ? 2 : 3, images = rows * c.images_per_row;
  std::vector<A> x(static_cast<size_t>(2 * c.channels * 36));
  std::vector<A> grad(static_cast<size_t>(images * c.filters * out * out));
  for (A& v : x) v = static_cast<A>(std::max<int64_t>(0, draw(-4, 4)));
  for (A& v : grad) v = static_cast<A>(draw(-4, 4));
  const std::vector<A> expected = plain_rows(shape, rows, c.images_per_row, grad, x);
  std::vector<A> found(expected.size());
  const JacobianParams params{shape, rows, c.images_per_row, type, parallel, isa};
  const size_t bytes = static_cast<size_t>(jacobian_workspace(params));
  void* workspace = ::operator new(bytes, std::align_val_t{64});
  jacobian_conv2d_rows(
      params, {grad.data(), images, c.filters, out, out, c.filters * out * out, out * out, out, 1},
      {x.data(), 2, c.channels, 6, 6, c.channels * 36, 36, 6, 1}, nullptr, nullptr, nullptr,
      workspace, found.data(), nullptr);
  ::operator delete(workspace, std::align_val_t{64});
  expect(found == expected, "rows of a convolution");  // sums of small whole numbers are exact
  const int64_t columns = static_cast<int64_t>(found.size()) / rows;
  std::vector<double> gram(static_cast<size_t>(rows * rows), 0);
  jacobian_gram({rows, rows, columns, true, type, parallel, isa}, found.data(), found.data(),
                gram.data());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < rows; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < columns; ++k) {
        sum += static_cast<double>(found[static_cast<size_t>(i * columns + k)]) *
               static_cast<double>(found[static_cast<size_t>(j * columns + k)]);
      }
      const double error = std::fabs(gram[static_cast<size_t>(i * rows + j)] - sum);
      expect(error <= 1e-4 * (1 + std::fabs(sum)), "gram of rows");
    }
  }
}

inline void check_jacobian(const Parallel& parallel, StorageType type, Isa isa) {
  for (const RowsCase& item : kRowsCases) {
    if (type == StorageType::kFloat32) check_rows<float>(item, parallel, type, isa);
    if (type == StorageType::kFloat64) check_rows<double>(item, parallel, type, isa);
  }
}

}  // namespace kernel_check
