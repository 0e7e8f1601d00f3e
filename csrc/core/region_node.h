// A node of a small network whose activation patterns are asked for. No framework type.
#pragma once

#include <cstdint>

namespace supertickets {

enum class RegionKind : int32_t {
  kInput,
  kConv,
  kNorm,
  kRelu,
  kAveragePool,
  kMaxPool,
  kAdd,    // first + scale * second
  kScale,  // scale * first
  kCat,    // along channels
  kWindow  // pixels of the input, zero where there are none
};

struct RegionNode {
  RegionKind kind;
  const int64_t* inputs;  // nodes before this one
  int64_t input_count;
  int64_t channels, height, width;
  // Output pixel y reads the input at y * stride - padding + k * dilation, for k below kernel.
  int64_t kernel_y, kernel_x, stride, padding_y, padding_x, dilation, groups;
  bool counts_padding;  // of a mean
  const float* weight;  // of a convolution [channels, C / groups, ky, kx]; of a norm, or null
  const float* bias;    // or null
  float scale;          // also a norm's epsilon

  int64_t pixels() const { return height * width; }
  int64_t rows() const { return channels * pixels(); }
};

// The number of bits that a table leaves for each sample.
inline int64_t region_bits(const RegionNode* nodes, int64_t count) {
  int64_t bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (nodes[i].kind == RegionKind::kRelu) bits += nodes[i].rows();
  }
  return bits;
}

}  // namespace supertickets
