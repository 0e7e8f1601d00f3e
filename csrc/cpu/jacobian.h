// Per-sample weight gradients of a convolution, and Gram matrices of rows, without any framework
// type.
//
// One row is the weight gradient of `images_per_row` images together: 1 for a gradient of each
// sample, the batch for one of several cotangents of the same batch. Output channels lie in the
// lanes. With stride 1 the loop runs over the input pixels that are not zero, half of them behind a
// ReLU: each meets the output gradient at fixed distances in a plane with a border of zeros, so a
// tap is one load and no bound is checked. With other strides it runs over the output pixels;
// depthwise convolutions have channels in the lanes on both sides. Nothing is unfolded.
//
// Every sum has one order, whatever the number of threads: a row belongs to one thread.
#pragma once

#include <cstdint>

#include "../core/conv2d_shape.h"
#include "../core/storage_type.h"
#include "isa.h"
#include "masked_conv2d.h"
#include "parallel.h"

namespace supertickets {

// Appends what is not zero in a plane of the input.
struct LivePixelJob {
  const void* plane;
  int64_t height, width, stride_height, stride_width;
  int64_t pitch;     // of the gradient's plane, in pixels
  void* values;      // [height * width]
  int32_t* offsets;  // [height * width], in elements of the gradient's plane
  int64_t count;     // result
};

// sums[t] += value * gradient[offset + taps[t]] over the live pixels.
struct LiveSumJob {
  const void* values;
  const int32_t* offsets;
  int64_t count;
  const void* gradient;
  const int64_t* taps;  // in elements
  int64_t tap_count;
  void* sums;  // [tap_count][lanes]
};

// sums[t] += x[pixel + taps[t]] * gradient[pixel] over the output pixels; x is one number for all
// lanes, or one for each.
struct DenseSumJob {
  const void* x;
  int64_t step_height, step_width;  // of x between output pixels, in elements
  const void* gradient;             // [out_height][out_width][lanes]
  int64_t out_height, out_width;
  const int64_t* taps;
  int64_t tap_count;
  void* sums;
};

inline constexpr int kGramRows = 3, kGramColumns = 4;  // rows of either side in one tile
inline constexpr int64_t kGramDepth = 2048;            // products summed in the rows' own type

struct GramTileJob {
  const void* one[kGramRows];
  const void* two[kGramColumns];
  int64_t count;                         // at most kGramDepth
  double sums[kGramRows][kGramColumns];  // result
};

// The kernels that are compiled once per instruction set; [float32, float64].
struct JacobianKernels {
  void (*live_pixels[2])(LivePixelJob&);
  void (*live_sum[2])(const LiveSumJob&);
  void (*dense_sum[2][2])(const DenseSumJob&);  // [type][one number for all lanes, one for each]
  void (*gram_tile[2])(GramTileJob&);
  int64_t lanes[2];
};
SUPERTICKETS_DECLARE_KERNELS(JacobianKernels, jacobian_kernels)

struct JacobianParams {
  Conv2dShape shape;  // batch: images of x
  int64_t rows, images_per_row;
  StorageType storage;  // float32 or float64
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

// Bytes of scratch memory, aligned to 64, that jacobian_conv2d_rows needs.
int64_t jacobian_workspace(const JacobianParams& params);

// grad: rows * images_per_row images [., O, OH, OW]; image i of it meets image i % batch of x.
// scale [O] or null. mask [O, C / groups, KH, KW] or null. out [rows, O, C / groups, KH, KW].
void jacobian_conv2d_rows(const JacobianParams& params, const Strided& grad, const Strided& x,
                          const bool* mask, const void* scale, void* workspace, void* out);

struct GramParams {
  int64_t one_rows, two_rows, columns;
  bool same;  // `two` is `one`: half is computed and mirrored
  StorageType storage;
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

// gram [one_rows, two_rows] += one two^T.
void jacobian_gram(const GramParams& params, const void* one, const void* two, double* gram);

}  // namespace supertickets
