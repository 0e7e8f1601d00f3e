// Gathers the kept weights of every row, and orders the rows.
#include <type_traits>

#include "block.cuh"
#include "masked_conv2d.h"
#include "number.cuh"

namespace supertickets::cuda {
namespace {

constexpr int kEach = 4;             // weights that a thread takes together
constexpr int kOrderThreads = 1024;  // rows that are ordered among themselves

// A block gathers a row.
template <class Number>
__global__ void __launch_bounds__(kThreads)
    gather_row(TapRows rows, const typename Number::Word* weight, const bool* mask) {
  using Sum = typename Number::Sum;
  for (int64_t row = blockIdx.x; row < rows.rows; row += gridDim.x) {
    auto* taps = static_cast<Tap<Sum>*>(rows.taps) + row * rows.capacity;
    const int64_t first = rows.first(row);
    const auto kernel = static_cast<int>(rows.kernel.divisor);
    int32_t count = 0;
    for (int64_t start = 0; start < rows.capacity; start += kThreads * kEach) {
      const auto mine = static_cast<int32_t>(start + threadIdx.x * kEach);
      int64_t at[kEach];
      bool kept[kEach];
      int32_t own = 0;
      for (int i = 0; i < kEach; ++i) {
        const auto plane = static_cast<int64_t>(rows.kernel.quotient(mine + i));
        at[i] = first + plane * rows.plane_step + (mine + i - plane * kernel);
        kept[i] = mine + i < rows.capacity && (mask == nullptr || mask[at[i]]);
        own += kept[i];
      }
      const auto sums = block_prefix(own);
      int32_t place = count + sums.before;
      for (int i = 0; i < kEach; ++i) {
        if (!kept[i]) continue;
        taps[place++] = {mine + i, weight == nullptr ? Sum{0} : Number::widened(weight[at[i]])};
      }
      count += sums.all;
    }
    if (threadIdx.x == 0) rows.counts[row] = count;
  }
}

// Longer rows first, so that the rows of a block are alike and no long one comes last. A thread
// ranks a row among those of its segment.
__global__ void __launch_bounds__(kOrderThreads) order_rows(TapRows rows) {
  __shared__ int32_t counts[kOrderThreads];
  const int thread = threadIdx.x;
  for (int64_t first = int64_t{blockIdx.x} * kOrderThreads; first < rows.rows;
       first += int64_t{gridDim.x} * kOrderThreads) {
    const int64_t left = rows.rows - first;
    const int size = static_cast<int>(left < kOrderThreads ? left : kOrderThreads);
    const int32_t count = thread < size ? rows.counts[first + thread] : 0;
    counts[thread] = count;
    __syncthreads();
    int rank = 0;
    for (int other = 0; other < size; ++other) {
      rank += counts[other] > count || (counts[other] == count && other < thread);
    }
    if (thread < size) rows.order[first + rank] = static_cast<int32_t>(first + thread);
    __syncthreads();  // the counts are read before the next segment's are written
  }
}

int64_t tap_bytes(StorageType storage) {
  return storage == StorageType::kFloat64 ? sizeof(Tap<double>) : sizeof(Tap<float>);
}

int64_t padded(int64_t bytes) { return (bytes + 15) / 16 * 16; }

TapRows rows_of(const Conv2dShape& s) {
  TapRows rows{};
  const int64_t kernel = s.kernel_height * s.kernel_width;
  rows.kernel = Divider(kernel);
  rows.kernel_width = Divider(s.kernel_width);
  rows.group_step = s.group_filters() * s.group_channels() * kernel;
  return rows;
}

}  // namespace

TapRows forward_rows(const Conv2dShape& s) {
  TapRows rows = rows_of(s);
  rows.rows = s.filters;
  rows.capacity = s.taps();
  rows.group_rows = s.group_filters();
  rows.row_step = s.taps();
  rows.plane_step = rows.kernel.divisor;
  return rows;
}

TapRows grad_input_rows(const Conv2dShape& s) {
  TapRows rows = rows_of(s);
  rows.rows = s.channels;
  rows.capacity = s.group_filters() * rows.kernel.divisor;
  rows.group_rows = s.group_channels();
  rows.row_step = rows.kernel.divisor;
  rows.plane_step = s.taps();
  return rows;
}

int64_t rows_bytes(const TapRows& rows, StorageType storage) {
  return 2 * padded(rows.rows * 4) + rows.rows * rows.capacity * tap_bytes(storage);
}

void put_rows(TapRows& rows, void* memory) {
  auto* at = static_cast<char*>(memory);
  rows.counts = reinterpret_cast<int32_t*>(at);
  rows.order = reinterpret_cast<int32_t*>(at + padded(rows.rows * 4));
  rows.taps = at + 2 * padded(rows.rows * 4);
}

cudaError_t gather_rows(const TapRows& rows, const void* weight, const bool* mask,
                        StorageType storage, cudaStream_t stream) {
  if (rows.rows == 0) return cudaSuccess;
  with_number(storage, [&](auto number) {
    using Number = decltype(number);
    const auto kernel = gather_row<Number>;
    const auto* words = static_cast<const typename Number::Word*>(weight);
    SUPERTICKETS_LAUNCH(kernel, blocks_for(rows.rows, 8), kThreads, 0, stream, rows, words, mask);
  });
  const unsigned segments = blocks_for((rows.rows + kOrderThreads - 1) / kOrderThreads, 1);
  SUPERTICKETS_LAUNCH(order_rows, segments, kOrderThreads, 0, stream, rows);
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
