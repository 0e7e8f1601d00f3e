// Ballot packing, an exact count by 128-bit hashes, popcount tiles.
#include "activation_patterns.h"
#include "block.cuh"

namespace supertickets::cuda {
namespace {

// --- Packing ------------------------------------------------------------------------------------

// > 0 from the bits alone: no sign, not zero, not NaN.
template <class Word, Word kInfinity>
struct Positive {
  using Bits = Word;
  static __device__ bool test(Word bits) { return bits != 0 && bits <= kInfinity; }
};
using Float32 = Positive<uint32_t, 0x7f800000>;
using Float64 = Positive<uint64_t, 0x7ff0000000000000>;
using BFloat16 = Positive<uint16_t, 0x7f80>;
using Float16 = Positive<uint16_t, 0x7c00>;
using Flag = Positive<uint8_t, 0xff>;

// A warp makes one word of one row: two ballots.
template <class Value>
__global__ void __launch_bounds__(kThreads) pack_words(PackSignsParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t first_word = p.bit / 64;
  const int64_t words = (p.bit + p.neurons - 1) / 64 - first_word + 1;
  const int64_t stride = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < p.rows * words;
       i += stride) {
    const int64_t row = i / words, word = first_word + i % words;
    const auto* values = static_cast<const typename Value::Bits*>(p.values) + row * p.neurons;
    unsigned half[2];
    for (int h = 0; h < 2; ++h) {
      const int64_t neuron = word * 64 + h * 32 + lane - p.bit;
      const bool there = 0 <= neuron && neuron < p.neurons;
      half[h] = __ballot_sync(kAllLanes, there && Value::test(values[neuron]));
    }
    if (lane == 0) {
      p.patterns[row * p.pattern_stride + word] |= uint64_t{half[1]} << 32 | half[0];
    }
  }
}

template <class Value>
void launch_pack(const PackSignsParams& p, cudaStream_t stream) {
  const auto kernel = pack_words<Value>;
  const int64_t words = (p.bit + p.neurons - 1) / 64 - p.bit / 64 + 1;
  const unsigned blocks = blocks_for((p.rows * words + kWarps - 1) / kWarps, 8);
  SUPERTICKETS_LAUNCH(kernel, blocks, kThreads, 0, stream, p);
}

// --- Counting -----------------------------------------------------------------------------------

// Mixes all bits of x (the finaliser of MurmurHash3).
__device__ uint64_t mixed(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
  return x ^ x >> 33;
}

// A warp hashes one row: sums of words mixed with their places, by two seeds.
__global__ void __launch_bounds__(kThreads) hash_rows(CountPatternsParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t stride = int64_t{gridDim.x} * kWarps;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; row < p.rows; row += stride) {
    uint64_t one = 0, two = 0;
    for (int64_t w = lane; w < p.words; w += 32) {
      const uint64_t word = p.patterns[row * p.words + w];
      one += mixed(word + mixed(w + 0x9e3779b97f4a7c15u));
      two += mixed(word ^ mixed(w + 0x632be59bd9b4e019u));
    }
    one = warp_sum(one);
    two = warp_sum(two);
    if (lane == 0) {
      p.hashes[2 * row] = one;
      p.hashes[2 * row + 1] = two;
    }
  }
}

__device__ bool same_row(const CountPatternsParams& p, int64_t a, int64_t b, int lane) {
  bool differs = p.hashes[2 * a] != p.hashes[2 * b] || p.hashes[2 * a + 1] != p.hashes[2 * b + 1];
  for (int64_t w = lane; w < p.words && !differs; w += 32) {
    differs = p.patterns[a * p.words + w] != p.patterns[b * p.words + w];
  }
  return !__any_sync(kAllLanes, differs);
}

// A warp finds its row in the table of rows met so far, or puts it there: open addressing. Which of
// equal rows comes first depends on the run, how many come first does not.
__global__ void __launch_bounds__(kThreads) insert_rows(CountPatternsParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t stride = int64_t{gridDim.x} * kWarps;
  unsigned long long fresh = 0;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; row < p.rows; row += stride) {
    int64_t place = static_cast<int64_t>(p.hashes[2 * row]) & (p.table_size - 1);
    while (true) {
      int64_t there = 0;
      if (lane == 0) {
        auto* entry = reinterpret_cast<unsigned long long*>(p.table + place);
        there = static_cast<int64_t>(atomicCAS(entry, ~0ull, static_cast<unsigned long long>(row)));
      }
      there = __shfl_sync(kAllLanes, there, 0);
      if (there < 0) {
        ++fresh;
        break;
      }
      if (same_row(p, there, row, lane)) break;
      place = (place + 1) & (p.table_size - 1);
    }
  }
  if (lane == 0 && fresh > 0) atomicAdd(reinterpret_cast<unsigned long long*>(p.count), fresh);
}

// --- Distances ----------------------------------------------------------------------------------

constexpr int kTile = 64;             // rows of a tile of the result
constexpr int kSide = 16;             // threads along a side
constexpr int kEach = kTile / kSide;  // results of a thread along a side
constexpr int kDepth = 16;            // words at a time

// Tiles of the upper triangle; each is written twice.
__global__ void __launch_bounds__(kSide* kSide)
    hamming_tile(const uint64_t* patterns, int64_t rows, int64_t words, int32_t* distances) {
  __shared__ uint64_t one[kDepth][kTile + 1];
  __shared__ uint64_t two[kDepth][kTile + 1];
  if (blockIdx.x < blockIdx.y) return;
  const int64_t top = int64_t{blockIdx.y} * kTile, left = int64_t{blockIdx.x} * kTile;
  const int thread = threadIdx.y * kSide + threadIdx.x;
  int32_t sums[kEach][kEach] = {};
  for (int64_t first = 0; first < words; first += kDepth) {
    for (int i = thread; i < kTile * kDepth; i += kSide * kSide) {
      const int row = i / kDepth, depth = i % kDepth;
      const bool inside = first + depth < words;
      const bool above = inside && top + row < rows, beside = inside && left + row < rows;
      one[depth][row] = above ? patterns[(top + row) * words + first + depth] : 0;
      two[depth][row] = beside ? patterns[(left + row) * words + first + depth] : 0;
    }
    __syncthreads();
    for (int depth = 0; depth < kDepth; ++depth) {
      uint64_t column[kEach];
      for (int j = 0; j < kEach; ++j) column[j] = two[depth][threadIdx.x + j * kSide];
      for (int i = 0; i < kEach; ++i) {
        const uint64_t word = one[depth][threadIdx.y + i * kSide];
        for (int j = 0; j < kEach; ++j) sums[i][j] += __popcll(word ^ column[j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int64_t a = top + threadIdx.y + i * kSide, b = left + threadIdx.x + j * kSide;
      if (a >= rows || b >= rows) continue;
      distances[a * rows + b] = sums[i][j];
      if (blockIdx.x != blockIdx.y) distances[b * rows + a] = sums[i][j];
    }
  }
}

}  // namespace

cudaError_t pack_signs(const PackSignsParams& p, cudaStream_t stream) {
  if (p.rows == 0 || p.neurons == 0) return cudaSuccess;
  if (p.flags) {
    launch_pack<Flag>(p, stream);
    return cudaGetLastError();
  }
  switch (p.storage) {
    case StorageType::kFloat32:
      launch_pack<Float32>(p, stream);
      break;
    case StorageType::kBFloat16:
      launch_pack<BFloat16>(p, stream);
      break;
    case StorageType::kFloat16:
      launch_pack<Float16>(p, stream);
      break;
    case StorageType::kFloat64:
      launch_pack<Float64>(p, stream);
      break;
  }
  return cudaGetLastError();
}

cudaError_t count_patterns(const CountPatternsParams& p, cudaStream_t stream) {
  cudaMemsetAsync(p.count, 0, sizeof(int64_t), stream);
  if (p.rows == 0) return cudaGetLastError();
  cudaMemsetAsync(p.table, 0xff, static_cast<size_t>(p.table_size) * sizeof(int64_t), stream);
  const unsigned blocks = blocks_for((p.rows + kWarps - 1) / kWarps, 8);
  SUPERTICKETS_LAUNCH(hash_rows, blocks, kThreads, 0, stream, p);
  SUPERTICKETS_LAUNCH(insert_rows, blocks, kThreads, 0, stream, p);
  return cudaGetLastError();
}

cudaError_t hamming_gram(const uint64_t* patterns, int64_t rows, int64_t words, int32_t* distances,
                         cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto tiles = static_cast<unsigned>((rows + kTile - 1) / kTile);
  SUPERTICKETS_LAUNCH(hamming_tile, dim3(tiles, tiles), dim3(kSide, kSide), 0, stream, patterns,
                      rows, words, distances);
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
