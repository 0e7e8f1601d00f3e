// A tile of a matrix product: kSide x kSide threads with kEach x kEach results each, over factors
// in shared memory.
#pragma once

#include "runtime.h"

namespace supertickets::cuda {

inline constexpr int kEachSide = 4;  // results of a thread along a side
inline constexpr int kDepth = 16;    // products of a result between two barriers

template <class Value, int kSide_>
struct ProductTile {
  static constexpr int kSide = kSide_;
  static constexpr int kTile = kSide * kEachSide;
  static constexpr int kThreads = kSide * kSide;
  using Factor = Value[kDepth][kTile + 1];  // the column more spreads rows over the banks

  Value sums[kEachSide][kEachSide] = {};

  __device__ static int down() { return static_cast<int>(threadIdx.x) / kSide; }
  __device__ static int across() { return static_cast<int>(threadIdx.x) % kSide; }

  __device__ void add(const Factor& left, const Factor& right) {
    for (int d = 0; d < kDepth; ++d) {
      Value row[kEachSide], column[kEachSide];
      for (int i = 0; i < kEachSide; ++i) row[i] = left[d][down() + i * kSide];
      for (int j = 0; j < kEachSide; ++j) column[j] = right[d][across() + j * kSide];
      for (int i = 0; i < kEachSide; ++i) {
        for (int j = 0; j < kEachSide; ++j) sums[i][j] += row[i] * column[j];
      }
    }
  }

  // Calls put(row, column, sum) for the thread's results.
  template <class Put>
  __device__ void give(const Put& put) const {
    SUPERTICKETS_UNROLL
    for (int i = 0; i < kEachSide; ++i) {
      SUPERTICKETS_UNROLL
      for (int j = 0; j < kEachSide; ++j) {
        put(down() + i * kSide, across() + j * kSide, sums[i][j]);
      }
    }
  }
};

}  // namespace supertickets::cuda
