// CUDA's runtime, or in tests what stands for it on the CPU: one text for both.
#pragma once

#if defined(SUPERTICKETS_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#define SUPERTICKETS_UNROLL
#else
#include <cuda_runtime.h>
// Shared memory is counted in bytes; `kernel` is a function pointer.
#define SUPERTICKETS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
// Before a loop whose arrays shall stay in registers.
#define SUPERTICKETS_UNROLL _Pragma("unroll")
#endif

#include <cstdint>

namespace supertickets {

// Blocks that fill the device several times over: enough for a loop over the rest of the work.
inline unsigned blocks_for(int64_t work, int per_multiprocessor) {
  int device = 0, multiprocessors = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  const int64_t most = int64_t{multiprocessors} * per_multiprocessor;
  return static_cast<unsigned>(work < most ? (work > 0 ? work : 1) : most);
}

}  // namespace supertickets
