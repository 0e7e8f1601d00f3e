// The sweep of a coupled Gram matrix against plain loops over one cotangent at a time.
#pragma once

#include "cpu/ntk_lanes_program.h"
#include "kernel_check.h"

namespace kernel_check {

// conv 3x3 - batch norm - rectifier - conv - head
struct SweepCase {
  int64_t images, height, width, middle, last, kernel, stride, dilation;
  bool depthwise;
};

inline constexpr SweepCase kSweepCases[] = {
    {1, 5, 4, 2, 3, 1, 1, 1, false},  {3, 6, 7, 5, 2, 3, 1, 1, false},
    {19, 4, 5, 3, 9, 3, 2, 1, false}, {9, 6, 6, 4, 4, 5, 1, 2, true},
    {2, 7, 5, 3, 3, 3, 2, 2, true},
};

using Numbers = std::vector<double>;

struct Map {  // [images, channels, height, width]
  int64_t images, channels, height, width;
  Numbers values;

  Map(int64_t n, int64_t c, int64_t h, int64_t w)
      : images(n), channels(c), height(h), width(w), values(static_cast<size_t>(n * c * h * w)) {}
  double& at(int64_t n, int64_t c, int64_t y, int64_t x) {
    return values[static_cast<size_t>(((n * channels + c) * height + y) * width + x)];
  }
};

struct PlainConv {
  int64_t outputs, inputs, kernel, stride, padding, dilation;
  bool depthwise;
  Numbers weight;

  int64_t out(int64_t size) const {
    return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  }
  // Calls visit(output value, input value, index of the weight) for every product.
  template <class Visit>
  void products(Map& x, Map& y, const Visit& visit) const {
    const int64_t depth = depthwise ? 1 : inputs;
    for (int64_t i = 0; i < static_cast<int64_t>(y.values.size()) * depth * kernel * kernel; ++i) {
      const int64_t v = i % kernel, u = i / kernel % kernel, d = i / (kernel * kernel) % depth;
      const int64_t pixel = i / (kernel * kernel * depth);
      const int64_t q = pixel % y.width, p = pixel / y.width % y.height;
      const int64_t o = pixel / (y.width * y.height) % outputs;
      const int64_t n = pixel / (y.width * y.height * outputs);
      const int64_t row = p * stride + u * dilation - padding;
      const int64_t column = q * stride + v * dilation - padding;
      if (row < 0 || row >= x.height || column < 0 || column >= x.width) continue;
      visit(y.at(n, o, p, q), x.at(n, depthwise ? o : d, row, column),
            static_cast<size_t>(((o * depth + d) * kernel + u) * kernel + v));
    }
  }
};

class SweepCheck {
 public:
  explicit SweepCheck(const SweepCase& c)
      : c_(c),
        one_{c.middle, 2, 3, 1, 1, 1, false, numbers(c.middle * 18)},
        two_{c.last,
             c.middle,
             c.kernel,
             c.stride,
             c.dilation * (c.kernel / 2),
             c.dilation,
             c.depthwise,
             numbers(c.last * (c.depthwise ? 1 : c.middle) * c.kernel * c.kernel)},
        gamma_(numbers(c.middle)),
        head_(numbers(c.last)),
        x_(c.images, 2, c.height, c.width),
        before_(c.images, c.middle, c.height, c.width),
        hat_(before_),
        normal_(before_),
        live_(before_),
        y_(c.images, c.last, two_.out(c.height), two_.out(c.width)) {
    x_.values = numbers(static_cast<int64_t>(x_.values.size()));
    forward(one_, x_, before_);
    normalize();
    forward(two_, live_, y_);
    for (int64_t i = 0; i < c.images; ++i) rows_.push_back(row(i));
  }

  void run(const Parallel& parallel, Isa isa) const {
    const auto columns = static_cast<int64_t>(rows_[0].size());
    std::vector<std::vector<float>> kept;
    const auto floats = [&](const Numbers& from) {
      return kept.emplace_back(from.begin(), from.end()).data();
    };
    using Kind = LaneNodeKind;
    const auto first = static_cast<int64_t>(one_.weight.size()), second = first + c_.middle;
    const auto map = [&](Kind kind, std::vector<int64_t> inputs, const Map& m) {
      LaneNode n{};
      n.kind = kind;
      n.inputs = std::move(inputs);
      n.channels = m.channels;
      n.height = m.height;
      n.width = m.width;
      n.value = floats(m.values);
      n.column = -1;
      n.scale = 1;
      return n;
    };
    const auto conv = [&](LaneNode n, const PlainConv& from, int64_t column) {
      n.weight = floats(from.weight);
      n.column = column;
      n.kernel = from.kernel;
      n.stride = from.stride;
      n.padding_y = n.padding_x = from.padding;
      n.dilation = from.dilation;
      n.depthwise = from.depthwise;
      return n;
    };
    std::vector<LaneNode> nodes{map(Kind::kInput, {}, x_),
                                conv(map(Kind::kConv, {0}, before_), one_, 0),
                                map(Kind::kBatchNorm, {1}, normal_),
                                map(Kind::kRelu, {2}, live_),
                                conv(map(Kind::kConv, {3}, y_), two_, second),
                                map(Kind::kHead, {4}, y_)};
    nodes[2].weight = floats(gamma_);
    nodes[2].mean = floats(mean_);
    nodes[2].rstd = floats(rstd_);
    nodes[2].column = first;
    nodes[5].weight = floats(head_);
    Numbers gram(static_cast<size_t>(c_.images * c_.images));
    const auto take = [](size_t bytes) { return ::operator new(bytes, std::align_val_t{64}); };
    const auto give = [](void* memory) { ::operator delete(memory, std::align_val_t{64}); };
    ntk_lanes_gram({c_.images, columns, parallel, isa, take, give}, nodes, gram.data());
    double largest = 0, error = 0;
    for (size_t i = 0; i < rows_.size(); ++i) {
      for (size_t j = 0; j < rows_.size(); ++j) {
        double product = 0;
        for (size_t k = 0; k < rows_[i].size(); ++k) product += rows_[i][k] * rows_[j][k];
        largest = std::max(largest, std::fabs(product));
        error = std::max(error, std::fabs(product - gram[i * rows_.size() + j]));
      }
    }
    // float32 rows against double ones
    expect(error <= 1e-4 * largest, std::string("lane sweep on ") + isa_name(isa) + ", kernel " +
                                        std::to_string(c_.kernel) + ", stride " +
                                        std::to_string(c_.stride) + ": off by " +
                                        std::to_string(error / largest));
  }

 private:
  static Numbers numbers(int64_t count) {
    Numbers found;
    for (int64_t i = 0; i < count; ++i) {
      found.push_back(static_cast<double>(draw(-64, 64)) / 64 + 1.0 / 128);
    }
    return found;
  }

  static void forward(const PlainConv& conv, Map& x, Map& y) {
    conv.products(x, y, [&](double& to, double from, size_t w) { to += conv.weight[w] * from; });
  }

  double batch() const { return static_cast<double>(c_.images * c_.height * c_.width); }

  // Calls visit(index, channel) for every value of the middle map.
  template <class Visit>
  void values(const Visit& visit) const {
    for (size_t i = 0; i < before_.values.size(); ++i) {
      visit(i, i / static_cast<size_t>(c_.height * c_.width) % static_cast<size_t>(c_.middle));
    }
  }

  void normalize() {
    mean_.assign(static_cast<size_t>(c_.middle), 0);
    Numbers square(mean_);
    values([&](size_t i, size_t c) { mean_[c] += before_.values[i] / batch(); });
    values([&](size_t i, size_t c) {
      square[c] += std::pow(before_.values[i] - mean_[c], 2) / batch();
    });
    for (const double s : square) rstd_.push_back(1 / std::sqrt(s + 1e-5));
    values([&](size_t i, size_t c) {
      hat_.values[i] = (before_.values[i] - mean_[c]) * rstd_[c];
      normal_.values[i] = gamma_[c] * hat_.values[i] + 0.1;
      live_.values[i] = std::max(0.0, normal_.values[i]);
    });
  }

  // Gradient of the number of one image: of the first weight, the scales, the second weight.
  Numbers row(int64_t image) {
    Numbers first(one_.weight.size()), scales(gamma_.size()), second(two_.weight.size());
    Map grad(y_), middle(before_), shifted(before_);
    std::fill(grad.values.begin(), grad.values.end(), 0.0);
    std::fill(middle.values.begin(), middle.values.end(), 0.0);
    for (int64_t o = 0; o < c_.last; ++o) {
      for (int64_t p = 0; p < y_.height * y_.width; ++p) {
        grad.at(image, o, 0, p) = head_[static_cast<size_t>(o)];
      }
    }
    two_.products(live_, grad, [&](double g, double x, size_t w) { second[w] += g * x; });
    two_.products(middle, grad, [&](double g, double& x, size_t w) { x += g * two_.weight[w]; });
    Numbers sums(gamma_.size());
    values([&](size_t i, size_t c) {
      if (normal_.values[i] <= 0) middle.values[i] = 0;
      sums[c] += middle.values[i];
      scales[c] += middle.values[i] * hat_.values[i];
    });
    values([&](size_t i, size_t c) {
      shifted.values[i] =
          gamma_[c] * rstd_[c] *
          (middle.values[i] - sums[c] / batch() - hat_.values[i] * scales[c] / batch());
    });
    one_.products(x_, shifted, [&](double g, double x, size_t w) { first[w] += g * x; });
    first.insert(first.end(), scales.begin(), scales.end());
    first.insert(first.end(), second.begin(), second.end());
    return first;
  }

  SweepCase c_;
  PlainConv one_, two_;
  Numbers gamma_, head_, mean_, rstd_;
  Map x_, before_, hat_, normal_, live_, y_;
  std::vector<Numbers> rows_;
};

inline void check_sweep(const Parallel& parallel, Isa isa) {
  for (const SweepCase& item : kSweepCases) SweepCheck(item).run(parallel, isa);
}

}  // namespace kernel_check
