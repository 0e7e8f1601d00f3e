// The programs of region_patterns: signs of a convolution against a plain loop, and every kind of
// node on exact-size buffers.
#include <random>
#include <vector>

#include "cuda/region_patterns.h"
#include "cuda_check.h"

namespace cuda_check {
namespace {

using namespace supertickets;

constexpr int64_t kSide = 3, kPixels = kSide * kSide, kIn = 2, kOut = 3;

std::vector<float> numbers(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 17) - 8) / 4;
  return values;
}

RegionNode node(RegionKind kind, const std::vector<int64_t>& inputs, int64_t channels) {
  RegionNode n{};
  n.kind = kind;
  n.inputs = inputs.data();
  n.input_count = static_cast<int64_t>(inputs.size());
  n.channels = channels;
  n.height = n.width = kSide;
  n.kernel_y = n.kernel_x = n.stride = n.dilation = n.groups = 1;
  n.scale = 0.5f;
  return n;
}

// A multiple of 1/16, whatever the order of its terms.
float convolved(const float* x, const float* weight, int64_t filter, int64_t pixel) {
  float sum = 0;
  for (int64_t t = 0; t < kIn * 9; ++t) {
    const int64_t y = pixel / kSide - 1 + t % 9 / 3, column = pixel % kSide - 1 + t % 3;
    if (y < 0 || y >= kSide || column < 0 || column >= kSide) continue;
    sum += weight[filter * kIn * 9 + t] * x[t / 9 * kPixels + y * kSide + column];
  }
  return sum;
}

void check_samples(int64_t samples, int64_t batch) {
  const auto x = numbers(samples * kIn * kPixels, 1), weight = numbers(kOut * kIn * 9, 2);
  const std::vector<std::vector<int64_t>> inputs = {{},  {0},    {1},    {2}, {3},
                                                    {4}, {5, 2}, {6, 0}, {7}, {8}};
  std::vector<RegionNode> nodes = {node(RegionKind::kInput, inputs[0], kIn),
                                   node(RegionKind::kConv, inputs[1], kOut),
                                   node(RegionKind::kRelu, inputs[2], kOut),
                                   node(RegionKind::kNorm, inputs[3], kOut),
                                   node(RegionKind::kMaxPool, inputs[4], kOut),
                                   node(RegionKind::kScale, inputs[5], kOut),
                                   node(RegionKind::kAdd, inputs[6], kOut),
                                   node(RegionKind::kCat, inputs[7], kOut + kIn),
                                   node(RegionKind::kAveragePool, inputs[8], kOut + kIn),
                                   node(RegionKind::kRelu, inputs[9], kOut + kIn)};
  nodes[1].weight = weight.data();
  for (const size_t i : {size_t{1}, size_t{4}, size_t{8}}) {
    nodes[i].kernel_y = nodes[i].kernel_x = 3;
    nodes[i].padding_y = nodes[i].padding_x = 1;
  }
  const auto count = static_cast<int64_t>(nodes.size());
  const int64_t words = (region_bits(nodes.data(), count) + 63) / 64;
  std::vector<uint64_t> patterns(static_cast<size_t>(samples * words), ~uint64_t{0});
  std::vector<float> values(
      static_cast<size_t>(cuda::region_floats(nodes.data(), count, samples, batch)));
  cuda::region_patterns(
      {nodes.data(), count, x.data(), samples, batch, patterns.data(), words, values.data()},
      nullptr);
  for (int64_t i = 0; i < samples * kOut * kPixels; ++i) {
    const int64_t sample = i / (kOut * kPixels), row = i % (kOut * kPixels);
    const float sum =
        convolved(x.data() + sample * kIn * kPixels, weight.data(), row / kPixels, row % kPixels);
    const bool bit = (patterns[static_cast<size_t>(sample * words)] >> row & 1) != 0;
    expect(bit == (sum > 0), "region_patterns differs");
  }
}

}  // namespace

void check_regions() {
  check_samples(1, 4);
  check_samples(37, 20);
}

}  // namespace cuda_check
