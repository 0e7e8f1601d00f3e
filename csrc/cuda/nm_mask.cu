// A thread decides one entry: it is kept if fewer than n of its group rank before it. Its
// neighbours read the same groups, so that memory is read once.
#include "mask_entries.cuh"
#include "nm_mask.h"

namespace supertickets::cuda {
namespace {

template <class Score>
__global__ void __launch_bounds__(kThreads) mark_groups(NmMaskParams p) {
  using Bits = typename Score::Bits;
  const auto* scores = static_cast<const Bits*>(p.scores);
  const int64_t entries = p.blocks * p.m * p.inner, stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < entries; i += stride) {
    const int64_t own = i / p.inner % p.m, first = i - own * p.inner;
    const Bits key = Score::key(scores[i], p.by_magnitude);
    int64_t before = 0;
    for (int64_t other = 0; other < p.m; ++other) {
      const Bits rival = Score::key(scores[first + other * p.inner], p.by_magnitude);
      before += rival > key || (rival == key && other < own);
    }
    p.mask[i] = before < p.n;
  }
}

}  // namespace

cudaError_t nm_mask(const NmMaskParams& p, cudaStream_t stream) {
  const int64_t entries = p.blocks * p.m * p.inner;
  if (entries == 0) return cudaSuccess;
  with_score(p.storage, [&](auto score) {
    const auto kernel = mark_groups<decltype(score)>;
    const unsigned blocks = blocks_for((entries + kThreads - 1) / kThreads, 8);
    SUPERTICKETS_LAUNCH(kernel, blocks, kThreads, 0, stream, p);
  });
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
