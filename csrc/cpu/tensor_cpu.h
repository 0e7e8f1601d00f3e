// From tensors to what CPU kernels take.
#pragma once

#include "../core/tensor.h"
#include "isa.h"
#include "masked_conv2d.h"
#include "parallel.h"

namespace supertickets {

// torch's own thread pool.
inline Parallel torch_parallel() {
  return {[](int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
            torch::stable::parallel_for(
                0, count, grain, [&](int64_t begin, int64_t end) { body(begin, end, context); });
          },
          static_cast<int64_t>(torch::stable::get_num_threads())};
}

inline Strided strided(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.size(0),   tensor.size(1),   tensor.size(2),  tensor.size(3),
          tensor.stride(0),  tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

}  // namespace supertickets
