// Weight gradients row by row: an implicit matrix product for each row and group, filters times
// taps, over the pixels of the row's images. Nothing is unfolded.
#include "block.cuh"
#include "divider.cuh"
#include "jacobian.h"
#include "product_tile.cuh"

namespace supertickets::cuda {
namespace {

constexpr int64_t kNarrowFilters = 8;  // groups with fewer filters waste most of a tile

struct RowsPlan {
  int64_t taps, filters, channels;  // of a group
  int64_t pixels;                   // of an output plane
  int64_t down, across;             // tiles of a group
  Divider out_width;
};

// Where a tap reads x: its channel in the group, and the distance from the output's pixel.
struct TapPlace {
  int64_t channel;
  int64_t y, x;
};

__device__ TapPlace place_of(const Conv2dShape& s, int64_t tap) {
  const int64_t kernel = s.kernel_height * s.kernel_width, element = tap % kernel;
  return {tap / kernel, element / s.kernel_width * s.dilation_height - s.pad_top,
          element % s.kernel_width * s.dilation_width - s.pad_left};
}

// x where the tap meets an output pixel, 0 outside the map.
template <class Value>
__device__ Value read(const Conv2dShape& s, const Divider& out_width, const Value* plane,
                      const TapPlace& tap, int64_t pixel) {
  const int64_t row = out_width.quotient(static_cast<uint32_t>(pixel));
  const int64_t y = row * s.stride_height + tap.y;
  const int64_t x = (pixel - row * s.out_width) * s.stride_width + tap.x;
  const bool inside = 0 <= y && y < s.height && 0 <= x && x < s.width;
  return inside ? plane[y * s.width + x] : Value{0};
}

template <class Value>
__device__ Value finished(const ConvRowsParams& p, int64_t filter, int64_t at, Value value) {
  if (p.mask != nullptr && !p.mask[at]) return 0;
  return p.scale == nullptr ? value : value * static_cast<const Value*>(p.scale)[filter];
}

template <class Value>
__global__ void __launch_bounds__(256, 2) tile_rows(ConvRowsParams p, RowsPlan plan) {
  using Tile = ProductTile<Value, 16>;
  __shared__ typename Tile::Factor gradients, inputs;
  const Conv2dShape& s = p.shape;
  const int64_t of_group = plan.down * plan.across;
  const int64_t work = p.rows * s.groups * of_group;
  // A thread stages four neighbouring pixels of one filter and of one tap.
  const int staged = threadIdx.x / 4, depth = threadIdx.x % 4 * 4;
  for (int64_t i = blockIdx.x; i < work; i += gridDim.x) {
    const int64_t row = i / of_group / s.groups, group = i / of_group % s.groups;
    const int64_t first_filter = i % of_group / plan.across * Tile::kTile;
    const int64_t first_tap = i % plan.across * Tile::kTile;
    const bool has_filter = first_filter + staged < plan.filters;
    const bool has_tap = first_tap + staged < plan.taps;
    const int64_t filter = group * plan.filters + first_filter + staged;
    const TapPlace tap = place_of(s, first_tap + staged);
    Tile tile;
    for (int64_t n = row * p.images_per_row; n < (row + 1) * p.images_per_row; ++n) {
      const auto* gradient =
          static_cast<const Value*>(p.grad) + (n * s.filters + filter) * plan.pixels;
      const int64_t channel = n % s.batch * s.channels + group * plan.channels + tap.channel;
      const auto* plane = static_cast<const Value*>(p.x) + channel * s.height * s.width;
      for (int64_t first = 0; first < plan.pixels; first += kDepth) {
        for (int d = depth; d < depth + 4; ++d) {
          const int64_t pixel = first + d;
          const bool there = pixel < plan.pixels;
          gradients[d][staged] = there && has_filter ? gradient[pixel] : Value{0};
          inputs[d][staged] =
              there && has_tap ? read(s, plan.out_width, plane, tap, pixel) : Value{0};
        }
        __syncthreads();
        tile.add(gradients, inputs);
        __syncthreads();
      }
    }
    tile.give([&](int down, int across, Value sum) {
      const int64_t f = group * plan.filters + first_filter + down, t = first_tap + across;
      if (first_filter + down >= plan.filters || t >= plan.taps) return;
      const int64_t at = f * plan.taps + t;
      auto* out = static_cast<Value*>(p.out) + row * s.filters * plan.taps + at;
      *out = p.weight == nullptr ? finished(p, f, at, sum) : sum;
    });
  }
}

// A warp for each entry, where a tile would be mostly empty: depthwise convolutions.
template <class Value>
__global__ void __launch_bounds__(kThreads, 2) narrow_rows(ConvRowsParams p, RowsPlan plan) {
  const Conv2dShape& s = p.shape;
  const int lane = threadIdx.x % 32;
  const int64_t of_row = s.filters * plan.taps, stride = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < p.rows * of_row;
       i += stride) {
    const int64_t row = i / of_row, at = i % of_row, filter = at / plan.taps;
    const TapPlace tap = place_of(s, at % plan.taps);
    Value sum = 0;
    for (int64_t n = row * p.images_per_row; n < (row + 1) * p.images_per_row; ++n) {
      const auto* gradient =
          static_cast<const Value*>(p.grad) + (n * s.filters + filter) * plan.pixels;
      const int64_t channel =
          n % s.batch * s.channels + filter / plan.filters * plan.channels + tap.channel;
      const auto* plane = static_cast<const Value*>(p.x) + channel * s.height * s.width;
      for (int64_t pixel = lane; pixel < plan.pixels; pixel += 32) {
        sum += gradient[pixel] * read(s, plan.out_width, plane, tap, pixel);
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      static_cast<Value*>(p.out)[i] = p.weight == nullptr ? finished(p, filter, at, sum) : sum;
    }
  }
}

// A warp for each filter of each row: its inner product with the weight, then scale and mask.
template <class Value>
__global__ void __launch_bounds__(kThreads) finish_rows(ConvRowsParams p, RowsPlan plan) {
  const int lane = threadIdx.x % 32;
  const int64_t filters = p.shape.filters, stride = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < p.rows * filters;
       i += stride) {
    const int64_t filter = i % filters;
    auto* out = static_cast<Value*>(p.out) + i * plan.taps;
    const auto* weight = static_cast<const Value*>(p.weight) + filter * plan.taps;
    Value dot = 0;
    for (int64_t t = lane; t < plan.taps; t += 32) {
      const Value value = out[t];
      dot += value * weight[t];
      out[t] = finished(p, filter, filter * plan.taps + t, value);
    }
    dot = warp_sum(dot);
    if (lane == 0) static_cast<Value*>(p.dots)[i] = dot;
  }
}

unsigned warps_to_blocks(int64_t warps) { return blocks_for((warps + kWarps - 1) / kWarps, 16); }

template <class Value>
void launch(const ConvRowsParams& p, const RowsPlan& plan, cudaStream_t stream) {
  if (plan.filters < kNarrowFilters) {
    const unsigned blocks = warps_to_blocks(p.rows * p.shape.filters * plan.taps);
    SUPERTICKETS_LAUNCH(narrow_rows<Value>, blocks, kThreads, 0, stream, p, plan);
  } else {
    const unsigned blocks = blocks_for(p.rows * p.shape.groups * plan.down * plan.across, 16);
    SUPERTICKETS_LAUNCH(tile_rows<Value>, blocks, 256, 0, stream, p, plan);
  }
  if (p.weight == nullptr) return;
  const unsigned blocks = warps_to_blocks(p.rows * p.shape.filters);
  SUPERTICKETS_LAUNCH(finish_rows<Value>, blocks, kThreads, 0, stream, p, plan);
}

}  // namespace

cudaError_t conv_rows(const ConvRowsParams& p, cudaStream_t stream) {
  const Conv2dShape& s = p.shape;
  constexpr int64_t kTile = ProductTile<float, 16>::kTile;
  RowsPlan plan{};
  plan.taps = s.taps();
  plan.filters = s.group_filters();
  plan.channels = s.group_channels();
  plan.pixels = s.out_height * s.out_width;
  plan.down = (plan.filters + kTile - 1) / kTile;
  plan.across = (plan.taps + kTile - 1) / kTile;
  plan.out_width = Divider(s.out_width);
  if (p.rows == 0 || s.filters == 0 || plan.taps == 0) return cudaSuccess;
  if (p.wide) {
    launch<double>(p, plan, stream);
  } else {
    launch<float>(p, plan, stream);
  }
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
