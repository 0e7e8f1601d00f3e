// Activation patterns of a small network on the GPU, forward pass included: one launch for each
// node, over all samples. No framework type.
#pragma once

#include "../core/region_node.h"
#include "runtime.h"

namespace supertickets::cuda {

struct RegionParams {
  const RegionNode* nodes;  // on the host; node 0 is the input; weights lie on the device
  int64_t count;
  const float* x;  // [samples, rows of node 0]
  int64_t samples, batch;
  uint64_t* patterns;  // [samples, words]
  int64_t words;
  float* values;  // region_floats(...)
};

// Numbers of scratch memory; samples run in parts of whole batches that fit it.
int64_t region_floats(const RegionNode* nodes, int64_t count, int64_t samples, int64_t batch);
cudaError_t region_patterns(const RegionParams& params, cudaStream_t stream);

}  // namespace supertickets::cuda
