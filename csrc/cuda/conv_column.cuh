// Where a thread of a convolution is: a place of the output, and what lies around it in the input.
#pragma once

#include "masked_conv2d.h"

namespace supertickets::cuda {

// Of one phase of the output: its pixels times the pieces of `inner` that a thread takes at once.
struct PhaseMap {
  int32_t height, width, columns;
  Divider pieces, row;  // columns of a pixel, of a row of pixels

  __host__ __device__ static int32_t part(const ConvAxis& axis, int32_t phase) {
    return phase < axis.outputs ? (axis.outputs - phase + axis.phases - 1) / axis.phases : 0;
  }
};

inline PhaseMap phase_map(const ConvAxes& axes, int32_t phase_y, int32_t phase_x, int64_t pieces) {
  PhaseMap map;
  map.height = PhaseMap::part(axes.y, phase_y);
  map.width = PhaseMap::part(axes.x, phase_x);
  map.columns = static_cast<int32_t>(map.height * map.width * pieces);
  map.pieces = Divider(pieces);
  map.row = Divider(map.width > 0 ? map.width : 1);
  return map;
}

struct Pixel {
  int32_t y, x, piece;
};

// Column `column` of an image.
inline __device__ Pixel pixel_of(const PhaseMap& map, int32_t column) {
  Pixel pixel;
  const auto flat = static_cast<int32_t>(map.pieces.quotient(column));
  pixel.piece = column - flat * static_cast<int32_t>(map.pieces.divisor);
  pixel.y = static_cast<int32_t>(map.row.quotient(flat));
  pixel.x = flat - pixel.y * static_cast<int32_t>(map.row.divisor);
  return pixel;
}

// How far from a column's place a tap reads.
struct Reach {
  int64_t offset;  // in elements
  int32_t y, x;
};

// delta of a tap along one axis; false if this phase does not meet it.
inline __device__ bool delta_of(const ConvAxis& axis, int32_t phase, int32_t tap, int32_t* delta) {
  const int32_t sum = phase + axis.offset + tap * axis.tap_step;
  *delta = sum / axis.phases;
  return *delta * axis.phases == sum;
}

// Of a tap of a row; false if this phase does not meet it.
inline __device__ bool reach_of(const TapRows& rows, const ConvAxes& axes, int32_t phase_y,
                                int32_t phase_x, int64_t inner, int32_t place, Reach* reach) {
  const auto plane = static_cast<int32_t>(rows.kernel.quotient(place));
  const int32_t element = place - plane * static_cast<int32_t>(rows.kernel.divisor);
  const auto ky = static_cast<int32_t>(rows.kernel_width.quotient(element));
  const int32_t kx = element - ky * static_cast<int32_t>(rows.kernel_width.divisor);
  const bool met = delta_of(axes.y, phase_y, ky, &reach->y);
  if (!delta_of(axes.x, phase_x, kx, &reach->x)) return false;
  const int64_t row = int64_t{plane} * axes.y.inputs + reach->y;
  reach->offset = (row * axes.x.inputs + reach->x) * inner;
  return met;
}

inline __device__ bool is_inside(const ConvAxes& axes, int32_t y, int32_t x) {
  return static_cast<uint32_t>(y) < static_cast<uint32_t>(axes.y.inputs) &&
         static_cast<uint32_t>(x) < static_cast<uint32_t>(axes.x.inputs);
}

}  // namespace supertickets::cuda
