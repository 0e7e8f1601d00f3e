// Top-k masks of many short rows: a radix select inside one block.
#include "mask_entries.cuh"

namespace supertickets::cuda {
namespace {

constexpr int kRowDigit = 8;  // bits; a bin for each thread
static_assert(1 << kRowDigit == kThreads);

template <class Score>
__global__ void __launch_bounds__(kThreads) select_rows(RowsParams p) {
  using Bits = typename Score::Bits;
  __shared__ unsigned bins[kThreads];
  __shared__ uint64_t known;
  __shared__ int64_t ties, there;
  const int thread = threadIdx.x;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const Bits* scores = static_cast<const Bits*>(p.scores) + row * p.n;
    bool* mask = p.mask + row * p.n;
    const auto key_at = [&](int64_t i) {
      return static_cast<uint64_t>(Score::key(scores[i], p.by_magnitude));
    };
    if (thread == 0) {
      known = 0;
      ties = p.keep;
      there = 0;
    }
    for (int shift = Score::kBits - kRowDigit; shift >= 0; shift -= kRowDigit) {
      bins[thread] = 0;
      __syncthreads();
      const int high = shift + kRowDigit;
      for (int64_t i = thread; i < p.n; i += kThreads) {
        const uint64_t key = key_at(i);
        if (high < 64 && (key ^ known) >> high != 0) continue;
        atomicAdd(&bins[key >> shift & (kThreads - 1)], 1u);
      }
      __syncthreads();
      const int bin = kThreads - 1 - thread;
      const int64_t count = bins[bin], left = ties;
      const int64_t above = block_prefix(count).before;
      if (above < left && left <= above + count) {
        known |= static_cast<uint64_t>(bin) << shift;
        ties = left - above;
        there = count;
      }
      __syncthreads();
    }
    const bool split = ties < there;
    int64_t place = 0;
    for (int64_t first = 0; first < p.n; first += kThreads) {
      const int64_t i = first + thread;
      const uint64_t key = i < p.n ? key_at(i) : 0;
      const bool tied = i < p.n && key == known;
      bool in = p.keep > 0 && (key > known || tied);
      if (split) {
        const auto sums = block_prefix(tied ? 1 : 0);
        if (tied) in = place + sums.before < ties;
        place += sums.all;
      }
      if (i < p.n) mask[i] = in;
    }
    __syncthreads();  // the threshold is read before the next row's is written
  }
}

}  // namespace

void topk_rows(const RowsParams& p, cudaStream_t stream) {
  if (p.rows == 0 || p.n == 0) return;
  with_score(p.storage, [&](auto score) {
    const auto kernel = select_rows<decltype(score)>;
    SUPERTICKETS_LAUNCH(kernel, blocks_for(p.rows, 8), kThreads, 0, stream, p);
  });
}

}  // namespace supertickets::cuda
