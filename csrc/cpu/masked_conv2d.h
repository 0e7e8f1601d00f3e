// Masked convolution on the CPU, without any framework type.
//
// A sparse convolution is, for each output plane, a short list of taps: {weight, offset of the
// input element that the weight meets at the first output position}. To make one offset serve all
// positions, the input is first copied into padded planes, one per channel and stride phase:
//
//   padded row  oh * stride + ky * dilation  ->  phase (ky * dilation) % stride,
//                                                row oh + (ky * dilation) / stride
//
// and the same for columns. Inside a plane every tap moves by unit steps, whatever the stride,
// dilation and padding. From half a line of images on, 16 lie side by side in each element's place
// ("lanes"), so that every load is aligned and small maps fill the vectors.
//
//   forward      output planes = filters,          input planes = x
//   grad_input   output planes = (channel, phase), input planes = grad_output with a halo
//   grad_weight  one dot product of grad_output and x per nonzero
#pragma once

#include <cstdint>
#include <vector>

#include "../core/conv2d_shape.h"
#include "../core/storage_type.h"
#include "isa.h"
#include "parallel.h"

namespace supertickets {

inline constexpr int64_t kLine = 16;  // images side by side; also the padding unit of all planes

// One spatial axis of a set of planes: dense position p is row (p + pad) / stride of the plane
// phase_index[(p + pad) % stride], if that is not -1 and the row is below extent. residue is the
// way back: plane f holds the positions whose (p + pad) % stride is residue[f].
struct Axis {
  int64_t size = 0;    // dense extent
  int64_t extent = 0;  // rows (or columns) of a plane
  int64_t stride = 1;
  int64_t pad = 0;
  int64_t phases = 1;
  std::vector<int32_t> phase_index = {0};
  std::vector<int64_t> residue = {0};
};

// The planes of a group of images: [channel][phase y][phase x][row][column][lane].
struct Planes {
  int64_t channels = 0;
  int64_t lanes = 1;  // 1 or kLine
  Axis y, x;
  int64_t row_pitch = 0;    // elements
  int64_t plane_pitch = 0;  // elements, a multiple of kLine

  int64_t count() const { return channels * y.phases * x.phases; }
  int64_t elements() const { return count() * plane_pitch; }
  // Slack: without lanes, the last vector of the last plane reads on for up to a row and a line.
  int64_t buffer_elements() const { return elements() + (lanes == 1 ? row_pitch + kLine : 0); }
};

// A dense tensor [N, C, H, W] with strides in elements.
struct Strided {
  void* data;
  int64_t batch, channels, height, width;
  int64_t stride_batch, stride_channel, stride_height, stride_width;
};

template <class A>
struct Tap {
  A value;
  int32_t offset;  // elements, from the tile's origin in the input planes
};

// Lists of taps, one per output plane: those of plane p are [start[p], start[p + 1]).
template <class A>
struct TapLists {
  std::vector<int64_t> start;
  std::vector<Tap<A>> taps;
};

// A piece of an output plane: `vectors` whole vectors in one row.
struct Tile {
  int64_t in, out;  // element offsets
  int64_t vectors;
};

// A piece of a grad_output plane that dot products run over.
struct Block {
  int64_t in, grad;  // element offsets
  int64_t rows, columns;
};

template <class A>
struct TileJob {
  int64_t planes;        // output planes
  const int64_t* start;  // [planes + 1], see TapLists
  const Tap<A>* taps;
  const A* bias;  // [planes], or null
  const A* in;    // at the tile's origin
  A* out;         // at the tile's origin in plane 0
  int64_t out_plane_pitch;
  int64_t vectors;
};

// Dot products of a block of one filter's grad_output plane with the input, one per tap.
template <class A>
struct DotJob {
  const A* grad;
  const A* in;
  const int32_t* offsets;  // [count]
  int64_t count;
  int64_t rows, columns;  // elements
  int64_t grad_pitch, in_pitch;
  double* sums;  // [count], added to
};

// Copies images [first, first + lanes) between a strided tensor and planes.
struct CopyJob {
  Strided dense;
  int64_t first;              // image
  int64_t channel, channels;  // the first, and how many
  const Planes* planes;
  const int64_t* residue_y;  // planes->y.residue as a plain array
  const int64_t* residue_x;
  void* buffer;  // the planes of this group of images
};

// The kernels that are compiled once per instruction set.
struct MaskedConv2dKernels {
  void (*pack[kStorageTypes])(const CopyJob&);
  void (*unpack[kStorageTypes])(const CopyJob&);
  void (*tile_float32)(const TileJob<float>&);
  void (*tile_float64)(const TileJob<double>&);
  void (*dot_float32)(const DotJob<float>&);
  void (*dot_float64)(const DotJob<double>&);
  int64_t tile_vectors;  // most vectors in a tile
  int64_t vector_bytes;
};
SUPERTICKETS_DECLARE_KERNELS(MaskedConv2dKernels, masked_conv2d_kernels)

// What the three entry points share. Weights are in the accumulator's type (float, or double for
// kFloat64), contiguous [O, C / groups, KH, KW]; a null mask keeps every weight.
struct MaskedConv2dParams {
  Conv2dShape shape;
  StorageType storage;
  const void* weight = nullptr;
  const bool* mask = nullptr;
  const void* bias = nullptr;  // forward only, [O], accumulator's type
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

void masked_conv2d_forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y);
// Positions of grad_input that no tap reads are not written: see grad_input_has_gaps.
void masked_conv2d_grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                              const Strided& grad_input);
// grad_weight: float64 [O, C / groups, KH, KW], zero outside the mask.
void masked_conv2d_grad_weight(const MaskedConv2dParams& params, const Strided& grad_output,
                               const Strided& x, double* grad_weight);

}  // namespace supertickets
