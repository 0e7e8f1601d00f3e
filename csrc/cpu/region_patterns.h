// Activation patterns of a small network, forward pass included, for many samples at once.
//
// The network is a table of nodes. A value is rows [channels * pixels][samples], so samples lie in
// the lanes and every operator is a few sums of whole rows; a ReLU leaves its bits as it runs.
// Batch norms take the statistics of the `batch` samples that run together. No framework type.
#pragma once

#include <cstdint>

#include "../core/region_node.h"
#include "isa.h"
#include "parallel.h"

namespace supertickets {

struct RegionParams {
  const RegionNode* nodes;  // node 0 is the input
  int64_t count;
  const float* x;  // [samples, rows of node 0]
  int64_t samples, batch;
  uint64_t* patterns;  // [samples, words]
  int64_t words;
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

inline constexpr int64_t kRegionLanes = 16;  // a row is a multiple of so many samples

// Inner loops; `length` is a multiple of kRegionLanes.
struct RegionKernels {
  // to = bias + sum of weights[t] * rows[t]
  void (*sum)(const float* const* rows, const float* weights, int64_t count, float bias, float* to,
              int64_t length);
  void (*max)(const float* const* rows, int64_t count, float* to, int64_t length);
  // One channel of `pixels` rows, a `pitch` apart, over the first `samples` of each.
  void (*norm)(const float* from, float* to, int64_t pixels, int64_t samples, int64_t pitch,
               float weight, float bias, float epsilon);
  // The bits of row r go to bit (bit + r) % 32 of words[(bit + r) / 32], one for each sample.
  void (*relu)(const float* from, float* to, int64_t rows, int64_t pitch, int64_t bit,
               uint32_t* words);
};
SUPERTICKETS_DECLARE_KERNELS(RegionKernels, region_kernels)

void region_patterns(const RegionParams& params);

}  // namespace supertickets
