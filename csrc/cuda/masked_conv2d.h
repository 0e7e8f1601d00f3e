// Masked convolution on the GPU, without any framework type and without waiting for the device.
//
// All three passes work on rows of taps: a row holds the kept weights of an output plane, in the
// order of the weight, with their places. Rows are gathered into memory for whole filters, so that
// no one asks how many there are; longer rows start first.
//
//   forward      an output plane is a filter,  its taps lie in channels
//   grad_input   an output plane is a channel, its taps lie in filters; by phases of the stride
//   grad_weight  the rows of the forward pass, a dot product for each tap
//
// Maps are [images, planes, height, width, inner]; inner is 1, or 16 in lanes, where images counts
// groups of 16.
#pragma once

#include "../core/conv2d_shape.h"
#include "../core/storage_type.h"
#include "divider.cuh"
#include "runtime.h"

namespace supertickets::cuda {

inline constexpr int64_t kInner = 16;                     // images side by side in lanes
inline constexpr int64_t kPixelsMost = int64_t{1} << 27;  // of a map, and of its sides

// One kept weight. Places count kernel elements, and planes of the row's group before them.
template <class Sum>
struct Tap {
  int32_t place;
  Sum value;
};

// Which weights the rows hold, and where the rows lie on the device.
struct TapRows {
  int64_t rows, capacity;                    // a row's taps start at row * capacity
  int64_t group_rows;                        // rows of one group of the convolution
  int64_t group_step, row_step, plane_step;  // in the weight, in elements
  Divider kernel, kernel_width;              // elements of a plane, of its rows
  int32_t *counts, *order;                   // [rows]; order: which row comes when
  void* taps;                                // Tap<Sum> [rows, capacity]

  // Where a tap lies in the weight.
  __host__ __device__ int64_t first(int64_t row) const {
    return row / group_rows * group_step + row % group_rows * row_step;
  }
};
TapRows forward_rows(const Conv2dShape& shape);     // places are null
TapRows grad_input_rows(const Conv2dShape& shape);  // the same
// Bytes of the rows, 16-byte aligned; put_rows sets the places.
int64_t rows_bytes(const TapRows& rows, StorageType storage);
void put_rows(TapRows& rows, void* memory);

// weight, or null for places alone; mask, or null for all.
cudaError_t gather_rows(const TapRows& rows, const void* weight, const bool* mask,
                        StorageType storage, cudaStream_t stream);

// One axis of a correlation. Output q * phases + phase reads input q * read_step + delta(tap), with
// delta = (phase + offset + tap * tap_step) / phases for the taps that this divides.
struct ConvAxis {
  int32_t outputs, inputs, taps;
  int32_t read_step, phases, offset, tap_step;
};
struct ConvAxes {
  ConvAxis y, x;
};
ConvAxes forward_axes(const Conv2dShape& shape);
ConvAxes grad_input_axes(const Conv2dShape& shape);

struct ConvSumParams {
  TapRows rows;
  ConvAxes axes;
  int64_t images, in_planes, group_planes;  // planes of all groups, of one
  int64_t inner;
  const void* in;
  const void* bias;      // [rows], or null
  const void* residual;  // like out, or null
  void* out;
  bool relu;
  StorageType storage;
};
cudaError_t conv_sum(const ConvSumParams& params, cudaStream_t stream);

// Few taps for each output, of tensors as they lie in memory: depthwise convolutions. Reads weight
// and mask themselves; of `rows` the places are not used.
struct DepthwiseParams {
  ConvSumParams sum;
  bool channels_last;
  const void* weight;
  const bool* mask;  // or null
};
cudaError_t depthwise(const DepthwiseParams& params, cudaStream_t stream);

struct ConvDotParams {
  TapRows rows;   // of the forward pass, without values
  ConvAxes axes;  // of the forward pass
  int64_t images, in_planes, group_planes;
  int64_t inner;
  const void *grad_out, *in;
  void* partial;      // dot_bytes(params)
  void* grad_weight;  // storage; zero before
  StorageType storage;
};
int64_t dot_bytes(const ConvDotParams& params);
cudaError_t conv_dot(const ConvDotParams& params, cudaStream_t stream);

// A map with strides in elements.
struct LanesParams {
  void* map;
  int64_t images, channels, height, width;
  int64_t stride_image, stride_channel, stride_height, stride_width;
  bool channels_last;  // its order in memory, for speed
  void* lanes;         // [ceil(images / 16), channels, height, width, 16]
  StorageType storage;
};
cudaError_t to_lanes(const LanesParams& params, cudaStream_t stream);  // absent images become 0
cudaError_t from_lanes(const LanesParams& params, cudaStream_t stream);

// The dense route. mask: bytes, or bits as pack_mask makes them.
struct MaskedWeightParams {
  int64_t count;
  const void* weight;
  const bool* mask;
  const uint8_t* bits;  // where mask is null
  StorageType storage;
};
cudaError_t masked_weight(const MaskedWeightParams& params, void* out, cudaStream_t stream);
// From the gradient of the masked weight that of the weight and that of the scores; each may be
// null.
cudaError_t masked_weight_grad(const MaskedWeightParams& params, const void* grad,
                               void* grad_weight, void* grad_scores, cudaStream_t stream);

}  // namespace supertickets::cuda
