// Packing by ballot.
#include "block.cuh"
#include "pack_mask.h"

namespace supertickets::cuda {
namespace {

// A warp packs 32 entries into up to 4 bytes.
__global__ void __launch_bounds__(kThreads)
    pack_bytes(const bool* mask, int64_t count, uint8_t* bits) {
  const int64_t bytes = (count + 7) / 8, stride = int64_t{gridDim.x} * kThreads;
  const int lane = threadIdx.x % 32;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i - lane < count; i += stride) {
    const unsigned word = __ballot_sync(kAllLanes, i < count && mask[i]);
    const int64_t byte = (i - lane) / 8 + lane;
    if (lane < 4 && byte < bytes) bits[byte] = static_cast<uint8_t>(word >> 8 * lane);
  }
}

__global__ void __launch_bounds__(kThreads)
    unpack_bytes(const uint8_t* bits, int64_t count, bool* mask) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    mask[i] = (bits[i / 8] >> i % 8 & 1) != 0;
  }
}

}  // namespace

cudaError_t pack_mask(const bool* mask, int64_t count, uint8_t* bits, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = blocks_for((count + kThreads - 1) / kThreads, 8);
  SUPERTICKETS_LAUNCH(pack_bytes, blocks, kThreads, 0, stream, mask, count, bits);
  return cudaGetLastError();
}

cudaError_t unpack_mask(const uint8_t* bits, int64_t count, bool* mask, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = blocks_for((count + kThreads - 1) / kThreads, 8);
  SUPERTICKETS_LAUNCH(unpack_bytes, blocks, kThreads, 0, stream, bits, count, mask);
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
