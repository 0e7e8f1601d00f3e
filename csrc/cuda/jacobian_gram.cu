// Gram matrices: tiles of results times slices of the columns. Products are summed in the rows' own
// type over kRun columns, runs in float64, and slices in their order by a second kernel.
#include "block.cuh"
#include "jacobian.h"
#include "product_tile.cuh"

namespace supertickets::cuda {
namespace {

constexpr int64_t kRun = 2048;
constexpr int64_t kSlicesMost = 1024;
constexpr int64_t kPartialMost = int64_t{1} << 22;  // numbers, 32 MiB
constexpr int64_t kSmallRows = 32;                  // take the smaller tile

struct GramPlan {
  int64_t slice, slices;  // columns of one, how many
  int64_t down, across;   // tiles
};

GramPlan plan_of(const GramParams& p) {
  const int64_t results = p.one_rows * p.two_rows, runs = (p.columns + kRun - 1) / kRun;
  int64_t most = results > 0 ? kPartialMost / results : 1;
  most = most > kSlicesMost ? kSlicesMost : most > 1 ? most : 1;
  GramPlan plan{};
  const int64_t of_slice = (runs + most - 1) / most;
  plan.slice = (of_slice > 1 ? of_slice : 1) * kRun;
  plan.slices = (p.columns + plan.slice - 1) / plan.slice;
  return plan;
}

template <class Tile, class Value>
__device__ void stage(typename Tile::Factor& factor, const Value* rows, int64_t first_row,
                      int64_t count, int64_t columns, int64_t column, int64_t end) {
  for (int i = threadIdx.x; i < Tile::kTile * kDepth; i += Tile::kThreads) {
    const int row = i / kDepth, depth = i % kDepth;
    const bool there = first_row + row < count && column + depth < end;
    factor[depth][row] = there ? rows[(first_row + row) * columns + column + depth] : Value{0};
  }
}

template <class Value, int kSide>
__global__ void __launch_bounds__(kSide* kSide, 2) gram_tiles(GramParams p, GramPlan plan) {
  using Tile = ProductTile<Value, kSide>;
  __shared__ typename Tile::Factor left, right;
  const int64_t tiles = plan.down * plan.across;
  for (int64_t i = blockIdx.x; i < tiles * plan.slices; i += gridDim.x) {
    const int64_t slice = i / tiles, top = i % tiles / plan.across * Tile::kTile;
    const int64_t beside = i % plan.across * Tile::kTile;
    if (p.same && beside < top) continue;  // read from the other side of the diagonal
    double totals[kEachSide][kEachSide] = {};
    const int64_t begin = slice * plan.slice;
    const int64_t end = begin + plan.slice < p.columns ? begin + plan.slice : p.columns;
    for (int64_t run = begin; run < end; run += kRun) {
      Tile tile;
      const int64_t run_end = run + kRun < end ? run + kRun : end;
      for (int64_t column = run; column < run_end; column += kDepth) {
        stage<Tile>(left, static_cast<const Value*>(p.one), top, p.one_rows, p.columns, column,
                    run_end);
        stage<Tile>(right, static_cast<const Value*>(p.two), beside, p.two_rows, p.columns, column,
                    run_end);
        __syncthreads();
        tile.add(left, right);
        __syncthreads();
      }
      for (int r = 0; r < kEachSide; ++r) {
        for (int c = 0; c < kEachSide; ++c) totals[r][c] += static_cast<double>(tile.sums[r][c]);
      }
    }
    for (int r = 0; r < kEachSide; ++r) {
      for (int c = 0; c < kEachSide; ++c) {
        const int64_t row = top + Tile::down() + r * kSide;
        const int64_t column = beside + Tile::across() + c * kSide;
        if (row >= p.one_rows || column >= p.two_rows) continue;
        p.partial[(slice * p.one_rows + row) * p.two_rows + column] = totals[r][c];
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) sum_slices(GramParams p, int64_t slices) {
  const int64_t results = p.one_rows * p.two_rows, stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < results; i += stride) {
    const int64_t row = i / p.two_rows, column = i % p.two_rows;
    const int64_t at = p.same && column < row ? column * p.two_rows + row : i;
    double sum = 0;
    for (int64_t s = 0; s < slices; ++s) sum += p.partial[s * results + at];
    p.gram[i] += sum;
  }
}

template <class Value, int kSide>
void launch(const GramParams& p, GramPlan plan, cudaStream_t stream) {
  constexpr int64_t kTile = ProductTile<Value, kSide>::kTile;
  plan.down = (p.one_rows + kTile - 1) / kTile;
  plan.across = (p.two_rows + kTile - 1) / kTile;
  const auto kernel = gram_tiles<Value, kSide>;
  const unsigned blocks = blocks_for(plan.down * plan.across * plan.slices, 16);
  SUPERTICKETS_LAUNCH(kernel, blocks, kSide * kSide, 0, stream, p, plan);
}

template <class Value>
void launch_tiles(const GramParams& p, const GramPlan& plan, cudaStream_t stream) {
  if (p.one_rows <= kSmallRows && p.two_rows <= kSmallRows) {
    launch<Value, 8>(p, plan, stream);
  } else {
    launch<Value, 16>(p, plan, stream);
  }
}

}  // namespace

int64_t gram_bytes(const GramParams& p) {
  return plan_of(p).slices * p.one_rows * p.two_rows * static_cast<int64_t>(sizeof(double));
}

cudaError_t add_gram(const GramParams& p, cudaStream_t stream) {
  const GramPlan plan = plan_of(p);
  const int64_t results = p.one_rows * p.two_rows;
  if (results == 0 || p.columns == 0) return cudaSuccess;
  if (p.wide) {
    launch_tiles<double>(p, plan, stream);
  } else {
    launch_tiles<float>(p, plan, stream);
  }
  const unsigned blocks = blocks_for((results + kThreads - 1) / kThreads, 8);
  SUPERTICKETS_LAUNCH(sum_slices, blocks, kThreads, 0, stream, p, plan.slices);
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
