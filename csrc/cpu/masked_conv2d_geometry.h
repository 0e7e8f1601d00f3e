// How a convolution becomes correlations, and how a correlation is cut into tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "masked_conv2d.h"

namespace supertickets {

// Output position r of `count` lies at out_first + r * out_step of the dense output and reads
// position r * in_step + shift[k] of the input for each kernel position kernel[k] that takes part.
struct Axis {
  int64_t count = 0, out_first = 0, out_step = 1;
  int64_t in_size = 0, in_step = 1;
  std::vector<int64_t> shift, kernel;
};

struct Correlation {
  Axis y, x;
  int64_t groups = 1, group_in = 0, group_out = 0;
  int64_t kernel_height = 1, kernel_width = 1;
  bool transposed = false;  // the weight is [in, out] instead of [out, in]

  int64_t planes() const { return groups * group_out; }
  int64_t kernel_size() const { return kernel_height * kernel_width; }
  // Entries of a row of the weight: a filter's.
  int64_t row() const { return (transposed ? group_out : group_in) * kernel_size(); }
};

Correlation forward_correlation(const Conv2dShape& shape);
// One for each phase of x that meets a tap.
std::vector<Correlation> grad_input_correlations(const Conv2dShape& shape);

// Input positions that a run of outputs needs along one axis, relative to output 0 times in_step.
// Output i of the run finds the input of tap k in slot tap[k] + i.
struct Slots {
  std::vector<int64_t> position;
  std::vector<int64_t> tap;
};

// A line is 16 images, or 16 / fold pixels of each of `fold` groups of rows.
struct TileForm {
  bool lanes = false;
  int64_t rows = 1, columns = 1;  // lines
  int64_t fold = 1;
  bool shares = false;  // taps that two planes have in the same place become one

  int64_t lines() const { return rows * columns; }
  int64_t segment() const { return kLine / fold; }  // pixels of one row in a line
};

struct Tiling : TileForm {
  Slots y, x;
  int64_t row_step = 0;       // buffer elements between output rows
  int64_t channel_pitch = 0;  // buffer elements
  int64_t block = 1;          // input channels that fit the buffer
  std::vector<int32_t> tap;   // [y taps][x taps] buffer offset inside a channel
};

// max_lines: see MaskedConv2dKernels::tile_lines_*.
TileForm best_form(const Correlation& correlation, bool lanes, int64_t max_lines,
                   int64_t element_bytes);
Tiling tile_correlation(const Correlation& correlation, const TileForm& form,
                        int64_t element_bytes);

}  // namespace supertickets
