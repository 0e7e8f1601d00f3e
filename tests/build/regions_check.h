// Activation patterns of a small network, run as a table of nodes.
#pragma once

#include <array>

#include "cpu/region_patterns.h"
#include "kernel_check.h"

namespace kernel_check {

// Convolution, ReLU, both pools, a sum, ReLU, batch norm, both joined, ReLU.
class RegionsCheck {
 public:
  RegionsCheck(int64_t samples, int64_t batch) : samples_(samples), batch_(batch) {
    x_ = whole_numbers(samples * kChannels * kPixels);
    weight_ = whole_numbers(kFilters * kChannels * 9);
  }

  void run(const Isa isa) {
    const std::vector<uint64_t> one = patterns(alone(), isa),
                                other = patterns(three_threads(), isa);
    expect(one == other, "region_patterns by threads");
    for (int64_t s = 0; s < samples_; ++s) {
      for (int64_t f = 0; f < kFilters; ++f) {
        for (int64_t p = 0; p < kPixels; ++p) {
          const int64_t bit = f * kPixels + p;
          const uint64_t word = one[static_cast<size_t>(s * kWords + bit / 64)];
          expect((word >> bit % 64 & 1) == (convolved(s, f, p / kSide, p % kSide) > 0),
                 "region_patterns, bits of the convolution");
        }
      }
    }
  }

 private:
  static constexpr int64_t kSide = 3, kPixels = kSide * kSide, kChannels = 2, kFilters = 4;
  static constexpr int64_t kBits = (1 + 1 + 2) * kFilters * kPixels, kWords = (kBits + 63) / 64;

  // Exact in any order of sums.
  static std::unique_ptr<float[]> whole_numbers(int64_t count) {
    std::unique_ptr<float[]> values(new float[static_cast<size_t>(count)]);
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(draw(-8, 8));
    return values;
  }

  float convolved(int64_t sample, int64_t filter, int64_t y, int64_t x) const {
    float sum = 0;
    for (int64_t c = 0; c < kChannels; ++c) {
      for (int64_t ky = 0; ky < 3; ++ky) {
        for (int64_t kx = 0; kx < 3; ++kx) {
          const int64_t iy = y + ky - 1, ix = x + kx - 1;
          if (iy < 0 || ix < 0 || iy >= kSide || ix >= kSide) continue;
          sum += weight_[(filter * kChannels + c) * 9 + ky * 3 + kx] *
                 x_[(sample * kChannels + c) * kPixels + iy * kSide + ix];
        }
      }
    }
    return sum;
  }

  RegionNode node(RegionKind kind, const std::vector<int64_t>& inputs, int64_t channels) const {
    const bool window = kind == RegionKind::kConv || kind == RegionKind::kAveragePool ||
                        kind == RegionKind::kMaxPool;
    RegionNode n{};
    n.kind = kind;
    n.inputs = inputs.data();
    n.input_count = static_cast<int64_t>(inputs.size());
    n.channels = channels;
    n.height = n.width = kSide;
    n.kernel_y = n.kernel_x = window ? 3 : 1;
    n.padding_y = n.padding_x = window ? 1 : 0;
    n.stride = n.dilation = n.groups = 1;
    n.counts_padding = true;
    n.weight = kind == RegionKind::kConv ? weight_.get() : nullptr;
    n.scale = kind == RegionKind::kNorm ? 1e-5f : -0.5f;
    return n;
  }

  std::vector<uint64_t> patterns(const Parallel& parallel, Isa isa) const {
    const std::vector<int64_t> inputs[] = {{}, {0}, {1}, {1}, {1}, {3, 4}, {5}, {6}, {7, 2}, {8}};
    using enum RegionKind;
    const RegionKind kinds[] = {kInput, kConv, kRelu, kMaxPool, kAveragePool,
                                kAdd,   kRelu, kNorm, kCat,     kRelu};
    std::vector<RegionNode> nodes;
    for (size_t i = 0; i < std::size(kinds); ++i) {
      nodes.push_back(node(kinds[i], inputs[i],
                           i == 0  ? kChannels
                           : i < 8 ? kFilters
                                   : 2 * kFilters));
    }
    const auto count = static_cast<int64_t>(nodes.size());
    expect(region_bits(nodes.data(), count) == kBits, "region_bits");
    std::vector<uint64_t> result(static_cast<size_t>(samples_ * kWords));
    region_patterns(
        {nodes.data(), count, x_.get(), samples_, batch_, result.data(), kWords, parallel, isa});
    return result;
  }

  int64_t samples_, batch_;
  std::unique_ptr<float[]> x_, weight_;
};

inline void check_regions(Isa isa) {
  for (const int64_t samples : {1, 16, 33}) {
    for (const int64_t batch : {int64_t{10}, samples}) RegionsCheck(samples, batch).run(isa);
  }
}

}  // namespace kernel_check
