// The shape of one two-dimensional convolution, shared by every back end.
#pragma once

#include <cstdint>

namespace supertickets {

struct Conv2dShape {
  int64_t batch, channels, height, width;  // input  [N, C, H, W]
  int64_t filters, out_height, out_width;  // output [N, O, OH, OW]
  int64_t kernel_height, kernel_width;     // weight [O, C / groups, KH, KW]
  int64_t stride_height, stride_width;
  int64_t pad_top, pad_left;  // what lies at the bottom and right follows from OH, OW
  int64_t dilation_height, dilation_width;
  int64_t groups;

  int64_t group_channels() const { return channels / groups; }
  int64_t group_filters() const { return filters / groups; }
  int64_t taps() const { return group_channels() * kernel_height * kernel_width; }  // of a filter
};

}  // namespace supertickets
