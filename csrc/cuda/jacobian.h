// Per-sample weight gradients of a convolution, and Gram matrices of rows, on the GPU. No framework
// type. Every sum has one order, which depends on the shape alone: no atomics.
#pragma once

#include "../core/conv2d_shape.h"
#include "runtime.h"

namespace supertickets::cuda {

// Numbers are float64 if wide, else float32. A row is the weight gradient of images_per_row images
// together; image i of grad meets image i % batch of x.
struct ConvRowsParams {
  Conv2dShape shape;  // batch: images of x
  int64_t rows, images_per_row;
  bool wide;
  const void *grad, *x;  // [rows * images_per_row, O, OH, OW], [batch, C, H, W]
  const bool* mask;      // [O, C / groups, KH, KW], or null
  const void* scale;     // [O], or null
  const void* weight;    // like mask, or null
  void* out;             // [rows, O, C / groups, KH, KW]
  void* dots;            // [rows, O]: the unscaled rows times the weight, if there is one
};
cudaError_t conv_rows(const ConvRowsParams& params, cudaStream_t stream);

// gram [one_rows, two_rows] += one two^T, in float64.
struct GramParams {
  const void *one, *two;  // [one_rows, columns], [two_rows, columns]
  int64_t one_rows, two_rows, columns;
  bool same;  // two is one: half is computed
  bool wide;
  double* partial;  // gram_bytes(params)
  double* gram;
};
int64_t gram_bytes(const GramParams& params);
cudaError_t add_gram(const GramParams& params, cudaStream_t stream);

}  // namespace supertickets::cuda
