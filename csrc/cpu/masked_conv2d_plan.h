// How a convolution is laid out in planes, and which taps each output plane sums.
#pragma once

#include "masked_conv2d.h"

namespace supertickets {

struct ConvPlan {
  Planes in;                  // what the taps read
  Planes out;                 // what they write; for grad_weight the planes of grad_output
  std::vector<Tile> tiles;    // cover every output plane; forward and grad_input
  std::vector<Block> blocks;  // the same for grad_weight
};

ConvPlan plan_forward(const Conv2dShape& shape, const MaskedConv2dKernels& kernels,
                      int64_t element_bytes);
ConvPlan plan_grad_input(const Conv2dShape& shape, const MaskedConv2dKernels& kernels,
                         int64_t element_bytes);
ConvPlan plan_grad_weight(const Conv2dShape& shape);

// Whether some input position meets no tap, so that its gradient is zero and nobody writes it.
bool grad_input_has_gaps(const Conv2dShape& shape);

template <class A>
TapLists<A> forward_taps(const Conv2dShape& shape, const Planes& in, const A* weight,
                         const bool* mask, const Parallel& parallel);
template <class A>
TapLists<A> grad_input_taps(const Conv2dShape& shape, const Planes& in, const Planes& out,
                            const A* weight, const bool* mask);

// The nonzeros of each filter: offsets into the planes of x, and dense indices into the weight.
struct NonzeroLists {
  std::vector<int64_t> start;  // [O + 1]
  std::vector<int32_t> offset;
  std::vector<int64_t> index;
};
NonzeroLists nonzero_lists(const Conv2dShape& shape, const Planes& in, const bool* mask,
                           const Parallel& parallel);

}  // namespace supertickets
