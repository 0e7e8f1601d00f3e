// How the blocks of the top-k kernels walk over the entries of all pieces.
#pragma once

#include "block.cuh"
#include "pack.cuh"
#include "score_key.cuh"
#include "topk_mask.h"

namespace supertickets::cuda {

// Entries that a thread loads together: 16 bytes.
template <class Score>
inline constexpr int kEach = 16 / sizeof(typename Score::Bits);

// The piece that holds a chunk.
inline __device__ int64_t piece_of_chunk(const Tables& tables, int64_t chunk) {
  int64_t low = 0, high = tables.piece_count - 1;
  while (low < high) {  // pieces without chunks have their successor's first chunk
    const int64_t middle = (low + high + 1) / 2;
    if (tables.pieces[middle].first_chunk <= chunk) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// A thread's neighbours in a chunk.
template <class Score>
struct Entries {
  using Bits = typename Score::Bits;
  Bits keys[kEach<Score>];
  bool active[kEach<Score>];
  int count;      // of them that exist
  int64_t first;  // in the piece

  __device__ bool exists(int i) const { return i < count; }
};

// kState: masks are read, and inactive entries have keys of their own.
template <class Score, bool kState>
__device__ Entries<Score> load_entries(const Piece& piece, int64_t first, bool by_magnitude) {
  using Bits = typename Score::Bits;
  constexpr int kCount = kEach<Score>;
  Entries<Score> entries;
  const int64_t left = piece.count - first;
  entries.first = first;
  entries.count = static_cast<int>(left < 0 ? 0 : left < kCount ? left : kCount);
  auto bits = load<kCount>(static_cast<const Bits*>(piece.scores), first, piece.count, Bits{0});
  Pack<uint8_t, kCount> mask{};
  if constexpr (kState) {
    mask =
        load<kCount>(reinterpret_cast<const uint8_t*>(piece.mask), first, piece.count, uint8_t{0});
    if (piece.inactive_scores != piece.scores) {
      const auto* others = static_cast<const Bits*>(piece.inactive_scores);
      const auto other = load<kCount>(others, first, piece.count, Bits{0});
      for (int i = 0; i < kCount; ++i) {
        if (mask.values[i] == 0) bits.values[i] = other.values[i];
      }
    }
  }
  for (int i = 0; i < kCount; ++i) {
    entries.keys[i] = Score::key(bits.values[i], by_magnitude);
    entries.active[i] = mask.values[i] != 0;
  }
  return entries;
}

// Calls body(piece, chunk, round): a round is what all threads of the block load together.
template <class Score, class Body>
__device__ void for_rounds(const Piece& piece, int64_t chunk, const Body& body) {
  const int64_t begin = (chunk - piece.first_chunk) * kChunk;
  const int64_t end = begin + kChunk < piece.count ? begin + kChunk : piece.count;
  for (int64_t first = begin; first < end; first += kThreads * kEach<Score>) {
    body(first + threadIdx.x * kEach<Score>);
  }
}

// Calls run(Score{}) with the type of the scores.
template <class Run>
void with_score(StorageType storage, const Run& run) {
  switch (storage) {
    case StorageType::kFloat32:
      return run(Float32Bits{});
    case StorageType::kBFloat16:
      return run(BFloat16Bits{});
    case StorageType::kFloat16:
      return run(Float16Bits{});
    case StorageType::kFloat64:
      return run(Float64Bits{});
  }
}

}  // namespace supertickets::cuda
