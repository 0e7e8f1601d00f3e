// The weight of the dense route and its gradients: one pass each, whatever form the mask has.
#include "block.cuh"
#include "masked_conv2d.h"
#include "number.cuh"
#include "pack.cuh"

namespace supertickets::cuda {
namespace {

constexpr int kEach = 8;  // neighbours that a thread takes: a byte of bits

// Bit i of the result: whether entry first + i is kept.
__device__ unsigned kept_bits(const MaskedWeightParams& p, int64_t first) {
  if (p.mask == nullptr) return p.bits[first / kEach];
  const auto flags =
      load<kEach>(reinterpret_cast<const uint8_t*>(p.mask), first, p.count, uint8_t{0});
  unsigned bits = 0;
  for (int i = 0; i < kEach; ++i) {
    if (flags.values[i] != 0) bits |= 1u << i;
  }
  return bits;
}

template <class Word>
__global__ void __launch_bounds__(kThreads) keep_weights(MaskedWeightParams p, Word* out) {
  const int64_t stride = int64_t{gridDim.x} * kThreads * kEach;
  for (int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kEach; first < p.count;
       first += stride) {
    const unsigned kept = kept_bits(p, first);
    auto words = load<kEach>(static_cast<const Word*>(p.weight), first, p.count, Word{0});
    for (int i = 0; i < kEach; ++i) {
      if ((kept >> i & 1) == 0) words.values[i] = 0;
    }
    store(out, first, p.count, words);
  }
}

template <class Number>
__global__ void __launch_bounds__(kThreads)
    split_gradient(MaskedWeightParams p, const typename Number::Word* grad,
                   typename Number::Word* grad_weight, typename Number::Word* grad_scores) {
  using Word = typename Number::Word;
  const int64_t stride = int64_t{gridDim.x} * kThreads * kEach;
  for (int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kEach; first < p.count;
       first += stride) {
    const auto grads = load<kEach>(grad, first, p.count, Word{0});
    if (grad_weight != nullptr) {
      const unsigned kept = kept_bits(p, first);
      auto own = grads;
      for (int i = 0; i < kEach; ++i) {
        if ((kept >> i & 1) == 0) own.values[i] = 0;
      }
      store(grad_weight, first, p.count, own);
    }
    if (grad_scores != nullptr) {
      auto words = load<kEach>(static_cast<const Word*>(p.weight), first, p.count, Word{0});
      for (int i = 0; i < kEach; ++i) {
        words.values[i] =
            Number::narrowed(Number::widened(grads.values[i]) * Number::widened(words.values[i]));
      }
      store(grad_scores, first, p.count, words);
    }
  }
}

unsigned blocks_of(const MaskedWeightParams& p) {
  constexpr int64_t kBlock = int64_t{kThreads} * kEach;
  return blocks_for((p.count + kBlock - 1) / kBlock, 8);
}

}  // namespace

cudaError_t masked_weight(const MaskedWeightParams& p, void* out, cudaStream_t stream) {
  if (p.count == 0) return cudaSuccess;
  with_number(p.storage, [&](auto number) {
    using Word = typename decltype(number)::Word;
    const auto kernel = keep_weights<Word>;
    auto* to = static_cast<Word*>(out);
    SUPERTICKETS_LAUNCH(kernel, blocks_of(p), kThreads, 0, stream, p, to);
  });
  return cudaGetLastError();
}

cudaError_t masked_weight_grad(const MaskedWeightParams& p, const void* grad, void* grad_weight,
                               void* grad_scores, cudaStream_t stream) {
  if (p.count == 0) return cudaSuccess;
  with_number(p.storage, [&](auto number) {
    using Word = typename decltype(number)::Word;
    const auto kernel = split_gradient<decltype(number)>;
    const auto* from = static_cast<const Word*>(grad);
    auto *to_weight = static_cast<Word*>(grad_weight), *to_scores = static_cast<Word*>(grad_scores);
    SUPERTICKETS_LAUNCH(kernel, blocks_of(p), kThreads, 0, stream, p, from, to_weight, to_scores);
  });
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
