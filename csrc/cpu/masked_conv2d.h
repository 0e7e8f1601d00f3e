// Masked convolution on the CPU, without any framework type.
//
// All three passes are correlations: an output plane is a sum of taps {weight, input position}.
//
//   forward      output planes = filters,  input planes = channels
//   grad_input   output planes = channels, input planes = filters; one correlation per stride phase
//   grad_weight  the taps of the forward pass, each with a dot product in the place of the weight
//
// Work goes tile by tile. A line is 16 elements that are computed together: 16 images of one pixel
// ("lanes"), or 16 pixels of one image. The input lines that a tile of output lines needs are
// copied, one block of input channels at a time, into a buffer that stays in the first cache; there
// halo, stride and dilation are gone and every tap is one offset. Over it run all output planes,
// two at a time: taps that both planes have share the load of their input. Sums of finished blocks
// wait in the second cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "../core/conv2d_shape.h"
#include "../core/storage_type.h"
#include "isa.h"
#include "parallel.h"

namespace supertickets {

inline constexpr int64_t kLine = 16;
inline constexpr int kTileRows = 3;             // most rows of a tile of lanes
inline constexpr int kTileColumns = 14;         // most lines of a row
inline constexpr int64_t kOutside = INT64_MIN;  // an offset that leads to a zero

// What lies side by side in the tensors of a call, and what a line is:
enum class Layout {
  kPixels,  // the pixels of a row (NCHW); a line is 16 pixels
  kLanes,   // 16 images; so is a line
  kImages,  // the channels of a pixel (channels_last); a line is 16 images
};

// A dense tensor [N, C, H, W] with strides in elements. In lanes, batch counts groups of 16 images
// and an element of the width is a line.
struct Strided {
  void* data;
  int64_t batch, channels, height, width;
  int64_t stride_batch, stride_channel, stride_height, stride_width;
};

// As wide as a value, so that no tap has padding: packed weights are compared byte by byte.
template <class V>
using TapOffset = std::conditional_t<sizeof(V) == 8, int64_t, int32_t>;

// One nonzero. V is the weight's type, or int32_t for the weight's dense index (grad_weight).
template <class V>
struct Tap {
  V value;
  TapOffset<V> offset;  // elements into the tile buffer
};
// A nonzero that two output planes have in the same place; used where the kernels share taps.
template <class V>
struct PairTap {
  V first, second;
  TapOffset<V> offset;
};

// The nonzeros of two output planes in one block of input channels: `both` pair taps, then the taps
// of the first plane alone, then those of the second alone.
struct Run {
  int32_t both, first, second;
  int32_t values;  // grad_weight: where its results lie in the list of all
  int64_t taps;    // byte offset
};

// Lines of output planes: element (plane, row, column) is at data + plane * .. + row * .. + ...
template <class A>
struct Place {
  A* data;
  int64_t plane, row, column;
};

// Memory that will be read next, fetched a little with every run: strips of `bytes` at
// base + i * step + rows[j].
struct Prefetch {
  const char* base = nullptr;
  int64_t step = 0;
  const int64_t* rows = nullptr;
  int64_t row_count = 0, strips = 0, bytes = 0;
};

// Sums `count` runs over the tile buffer.
template <class A>
struct RunJob {
  const A* in;
  int64_t row_step;  // buffer elements from one output row to the next
  int64_t rows, columns;
  const Run* runs;
  int64_t count, planes;  // planes is 2 count, or one less
  const std::byte* taps;
  bool first;     // start from bias ([planes] or null) instead of sums
  const A* bias;  //
  A* sums;        // [planes][rows * columns] lines; where the sums wait, unless out is set
  Place<A> out;
  const A* residual;  // null, or added to what goes to out; laid out like it
  bool relu;
  bool stream;  // write past the caches
  Prefetch prefetch;
};

// One dot product of the two planes' grad_output with the buffer for every tap.
template <class A>
struct DotJob {
  const A* in;
  int64_t row_step;
  int64_t rows, columns;
  const Run* runs;
  int64_t count, planes;
  const std::byte* taps;
  const A* grad;  // [planes][rows * columns] lines
  A* values;      // added to, in the order of the taps
  Prefetch prefetch, prefetch_grad;
};

// Fills the tile buffer with `channels` channels of one image or group.
struct FillJob {
  const void* from;
  int64_t channel_step;  // elements
  int64_t channels;
  void* buffer;
  int64_t channel_pitch;  // buffer elements
  int64_t slots_y, slots_x;
  const int64_t* rows;  // [fold][slots_y] element offsets or kOutside
  // Lanes: element offsets or kOutside. Pixels: the first of 16 / fold columns, may be outside.
  const int64_t* columns;  // [slots_x]
  // Pixels only:
  int64_t fold;
  int64_t column_step;          // elements between neighbours
  const uint32_t* column_mask;  // [slots_x] which of the 16 / fold pixels are inside
  const uint32_t* row_mask;     // [fold][slots_y] which pixels a row has at all
  // Images only:
  int64_t image_step, images;
};

// Writes finished sums of planes to a tensor.
struct EmitJob {
  const void* sums;  // [planes][rows * columns] lines
  int64_t planes, rows, columns;
  void* to;              // at the tile's first pixel
  const void* residual;  // null, or laid out like `to`
  bool relu;
  int64_t plane_step, row_step, column_step;  // elements
  int64_t fold;                               // pixels only
  int64_t fold_step;                          // elements from one row group to the next
  const uint32_t* row_mask;                   // [fold][rows] which pixels to write
  int64_t image_step, images;                 // images only
  bool stream;                                // images only: write past the caches
};

// Moves some channels of one group of 16 images between a tensor and lanes.
struct LanesJob {
  Strided dense;
  void* lanes;  // [groups, channels, height, width, 16]
  int64_t group, channel, channels;
};

inline constexpr int kLayouts = 3;

// The kernels that are compiled once per instruction set.
struct MaskedConv2dKernels {
  void (*fill[kLayouts][kStorageTypes])(const FillJob&);
  void (*emit[kLayouts][kStorageTypes])(const EmitJob&);
  void (*to_lanes[kStorageTypes])(const LanesJob&);
  void (*from_lanes[kStorageTypes])(const LanesJob&);
  void (*run_float32)(const RunJob<float>&);
  void (*run_float64)(const RunJob<double>&);
  void (*dot_float32)(const DotJob<float>&);
  void (*dot_float64)(const DotJob<double>&);
  int64_t tile_lines_float32;  // most lines in a tile
  int64_t tile_lines_float64;
  bool shares_taps;  // whether runs may have taps of both planes
};
SUPERTICKETS_DECLARE_KERNELS(MaskedConv2dKernels, masked_conv2d_kernels)

// What the entry points share. Weights are in the accumulator's type (float, or double for
// kFloat64), contiguous [O, C / groups, KH, KW]; a null mask keeps every weight. In lanes, the
// tensors' batch counts groups of 16 images.
struct MaskedConv2dParams {
  Conv2dShape shape;
  StorageType storage;
  Layout layout = Layout::kPixels;
  const void* weight = nullptr;
  const bool* mask = nullptr;
  const void* bias = nullptr;      // forward only, [O], accumulator's type
  const void* residual = nullptr;  // forward only, laid out like y
  bool relu = false;               // forward only
  const void* packed = nullptr;    // forward only: what masked_conv2d_pack gave; else weight, mask
  const void* pattern = nullptr;   // what masked_conv2d_pattern gave; not used if of another mask
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

// The weight in the form that `packed` takes, for inputs like x; its size in `bytes`.
std::unique_ptr<std::byte[]> masked_conv2d_pack(const MaskedConv2dParams& params, const Strided& x,
                                                const Strided& y, int64_t* bytes);
bool masked_conv2d_fits(const MaskedConv2dParams& params, const Strided& x, const Strided& y,
                        int64_t bytes);

// What spares the passes over the mask, for inputs like x: of the forward pass and grad_weight, or
// (transposed) of grad_input. For float accumulators.
std::unique_ptr<std::byte[]> masked_conv2d_pattern(const MaskedConv2dParams& params,
                                                   const Strided& x, const Strided& y,
                                                   bool transposed, int64_t* bytes);
bool is_masked_conv2d_pattern(const void* memory, int64_t bytes);

// x and y: of the layout in params; what it says lies side by side must do so.
void masked_conv2d_forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y);
// Positions of grad_input that no tap reads are not written: see grad_input_has_gaps.
void masked_conv2d_grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                              const Strided& grad_input);
// grad_weight: accumulator's type, [O, C / groups, KH, KW], zero outside the mask beforehand.
void masked_conv2d_grad_weight(const MaskedConv2dParams& params, const Strided& grad_output,
                               const Strided& x, void* grad_weight);
bool grad_input_has_gaps(const Conv2dShape& shape);

// Lanes <-> tensor; absent images become zeros and are not written back.
void to_lanes(const Strided& dense, void* lanes, StorageType storage, const Parallel& parallel,
              Isa isa);
void from_lanes(const void* lanes, const Strided& dense, StorageType storage,
                const Parallel& parallel, Isa isa);

}  // namespace supertickets
