// The sweep of many cotangents through one batch, from the head of a network back to its first
// layer, without any framework type: Gram matrices of networks whose batch norms couple the batch.
//
// A gradient field is [image, channel, row, column, lane]: as many cotangents lie side by side as a
// vector has lanes. Every activation is then one number for a whole vector, and a rectifier is a
// list of live pixels that spares the dead half of both convolution gradients. A field's rows end
// in `border` zero pixels, which are the left border of the next row too.
//
// A program is a list of steps, each in a phase. Within a phase the images are the outer loop: what
// one step writes the next one reads from the cache. Only sums over the batch end a phase.
//
// Batch norm (scale gamma, mean mu, 1/deviation r) after a convolution (weight W, input x), with G
// the gradient at its output, A = sum G x (the correlation), M values a channel:
//   S1 = sum G,  S2 = sum G xhat = r (<W, A> - mu S1)           no pass over xhat
//   dW = gamma r (A - S1/M sum x - S2/M sum xhat x)             the two sums once per network
//   gradient at its input = gamma r (G - S1/M - xhat S2/M)      formed plane by plane
#pragma once

#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace supertickets {

// Where the pixels of one resolution lie, counted in pixels of `lanes` floats.
struct LaneLevel {
  int64_t height, width, border;
  int64_t pitch, plane, lead;  // of a row, of a channel, before the first pixel of an image
};

struct LaneField {
  float* data;
  int64_t channels;
  LaneLevel level;
  int64_t image;  // pixels of one image
};

// The pixels of an activation that matter, row by row: row y of channel c of image n holds entries
// begin[i] .. begin[i + 1] with i = (n * channels + c) * rows + y.
struct PixelList {
  const int32_t* begin;
  const int32_t* from;  // the pixel of the gradient that tap 0 reads, less LaneStep::shift
  const int32_t* to;    // the pixel of the input's gradient
  const float* value;
  int64_t channels, rows;
};

enum class LaneStepKind : int32_t {
  kStart,        // out = weight[channel] in the lane of the image's own cotangent
  kSum,          // sums[channel] += G
  kMoment,       // sums[channel] += G (value - mean[channel])
  kCorrelate,    // sums[out][in][tap] += G x
  kSpread,       // out += the convolution's input gradient, at live pixels
  kAdd,          // out += scale G
  kMask,         // out += scale G, at live pixels
  kNormalize,    // out += c0 G - c1 - c2 value
  kBox,          // out += scale * transposed 3x3 average of G with inverse counts `value`
  kAveragePool,  // the same for other windows
  kMaxPool       // out[index] += scale G
};

struct LaneStep {
  LaneStepKind kind;
  int64_t phase;
  const LaneField* gradient;  // G: its channels first .. first + channels
  int64_t first, channels;
  const LaneField* out;
  bool clears;  // it is the first to write `out`
  float scale;
  // Convolutions: taps [rows][columns], `spacing` gradient pixels apart.
  int64_t tap_rows, tap_columns, spacing, shift, inputs;
  bool depthwise;
  const PixelList* pixels;
  const float* weight;        // [channels][inputs, 1 if depthwise][tap]
  const float* coefficients;  // c0, c1, c2 [3][channels][lanes], or null: the gradient is G
  const float* value;         // [image, channel, row, column]
  const float* mean;
  const int32_t* index;  // flat pixel of the input for each output
  int64_t sums;          // first vector of its sums
  int64_t kernel, stride, padding;
};

// What the steps of one slice of the images share while a block of cotangents runs.
struct LaneBlock {
  int64_t first_cotangent, cotangents;
  float* sums;
  float* scratch;
};

// K += rows^T rows over `columns` rows of `stride` doubles; rows [begin, end) of K, lower tiles.
struct LaneGramJob {
  const double* rows;
  int64_t columns, stride;
  double* gram;  // [stride][stride]
  int64_t begin, end;
};

inline constexpr int64_t kLaneGroup = 8;  // most planes that a convolution step forms at once

struct NtkLanesKernels {
  int64_t lanes;
  // False if there is no kernel for such taps.
  bool (*has_taps)(int64_t rows, int64_t columns, int64_t spacing);
  void (*run)(const LaneStep& step, int64_t image, const LaneBlock& block);
  void (*gram)(const LaneGramJob& job);
  int64_t gram_tile;  // rows of K that belong together
};
SUPERTICKETS_DECLARE_KERNELS(NtkLanesKernels, ntk_lanes_kernels)

}  // namespace supertickets
