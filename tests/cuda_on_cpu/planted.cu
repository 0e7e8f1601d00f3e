#include <vector>

#include "cuda_on_cpu.h"
#include "planted.h"

namespace planted {
namespace {

__global__ void reads_before_others_wrote(int* out) {
  __shared__ int values[64];
  const int thread = threadIdx.x;
  values[thread] = thread;  // __syncthreads() is missing
  out[thread] = values[63 - thread];
}

__global__ void writes_without_test(int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = 1; }

__global__ void writes_past_shared() {
  static_cast<int*>(cuda_on_cpu::dynamic_shared())[threadIdx.x + 1] = 1;
}

__global__ void shuffles_with_all(int* out) {
  const int thread = threadIdx.x;
  if (thread < 16) out[thread] = __shfl_sync(~0u, thread, 3);
  __syncthreads();
}

__global__ void waits_in_two_places() {
  if (threadIdx.x < 8) {
    __syncthreads();
  } else {
    __syncwarp(~0u);
  }
}

}  // namespace

void missing_barrier() {
  std::vector<int> out(64);
  int* const to = out.data();
  SUPERTICKETS_LAUNCH(reads_before_others_wrote, 1, 64, 0, nullptr, to);
}

void out_of_bounds() {
  std::vector<int> out(100);
  int* const to = out.data();
  SUPERTICKETS_LAUNCH(writes_without_test, 2, 64, 0, nullptr, to);
}

void past_shared() { SUPERTICKETS_LAUNCH(writes_past_shared, 1, 64, 64 * sizeof(int), nullptr); }

void bad_mask() {
  std::vector<int> out(32);
  int* const to = out.data();
  SUPERTICKETS_LAUNCH(shuffles_with_all, 1, 32, 0, nullptr, to);
}

void early_exit() { SUPERTICKETS_LAUNCH(waits_in_two_places, 1, 32, 0, nullptr); }

}  // namespace planted
