// Maps into lanes of 16 images and back: tiles of pixels times images, turned in shared memory so
// that both sides are read and written in their own order.
#include "block.cuh"
#include "masked_conv2d.h"

namespace supertickets::cuda {
namespace {

constexpr int kTilePixels = 64;

struct Place {
  int64_t map, lanes;  // of a pixel of a channel, in elements
};

// Pixels are counted in the map's own order.
__device__ Place place_of(const LanesParams& p, int64_t pixel) {
  int64_t channel, y, x;
  if (p.channels_last) {
    channel = pixel % p.channels;
    x = pixel / p.channels % p.width;
    y = pixel / p.channels / p.width;
  } else {
    x = pixel % p.width;
    y = pixel / p.width % p.height;
    channel = pixel / p.width / p.height;
  }
  return {channel * p.stride_channel + y * p.stride_height + x * p.stride_width,
          ((channel * p.height + y) * p.width + x) * kInner};
}

template <class Word, bool kToLanes>
__global__ void __launch_bounds__(kThreads) turn(LanesParams p) {
  __shared__ Word tile[kTilePixels][kInner + 1];
  auto* map = static_cast<Word*>(p.map);
  auto* lanes = static_cast<Word*>(p.lanes);
  const int64_t pixels = p.channels * p.height * p.width;
  const int64_t tiles = (pixels + kTilePixels - 1) / kTilePixels;
  const int64_t groups = (p.images + kInner - 1) / kInner;
  constexpr int kPart = kTilePixels * kInner / kThreads;  // numbers of a thread
  for (int64_t work = blockIdx.x; work < tiles * groups; work += gridDim.x) {
    const int64_t group = work / tiles, first = work % tiles * kTilePixels;
    // side 0 moves along the map, side 1 along the lanes
    for (int side = kToLanes ? 0 : 1, turns = 0; turns < 2; side = 1 - side, ++turns) {
      for (int i = 0; i < kPart; ++i) {
        const int number = threadIdx.x + i * kThreads;
        const int pixel = side == 0 ? number % kTilePixels : number / kInner;
        const int64_t image = side == 0 ? number / kTilePixels : number % kInner;
        if (first + pixel >= pixels) continue;
        const Place place = place_of(p, first + pixel);
        const int64_t whole = group * kInner + image;
        Word* out = lanes + group * pixels * kInner + place.lanes + image;
        Word* in = map + whole * p.stride_image + place.map;
        if (side == 1) {
          if (kToLanes) {
            *out = tile[pixel][image];
          } else {
            tile[pixel][image] = *out;
          }
        } else if (kToLanes) {
          tile[pixel][image] = whole < p.images ? *in : Word{0};
        } else if (whole < p.images) {
          *in = tile[pixel][image];
        }
      }
      __syncthreads();
    }
  }
}

template <bool kToLanes>
cudaError_t launch(const LanesParams& p, cudaStream_t stream) {
  const int64_t pixels = p.channels * p.height * p.width;
  const int64_t tiles = (pixels + kTilePixels - 1) / kTilePixels;
  const int64_t work = tiles * ((p.images + kInner - 1) / kInner);
  if (work == 0) return cudaSuccess;
  const auto run = [&](auto word) {
    const auto kernel = turn<decltype(word), kToLanes>;
    SUPERTICKETS_LAUNCH(kernel, blocks_for(work, 8), kThreads, 0, stream, p);
  };
  switch (p.storage) {
    case StorageType::kFloat32:
      run(uint32_t{});
      break;
    case StorageType::kFloat64:
      run(uint64_t{});
      break;
    default:
      run(uint16_t{});
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t to_lanes(const LanesParams& p, cudaStream_t stream) { return launch<true>(p, stream); }

cudaError_t from_lanes(const LanesParams& p, cudaStream_t stream) {
  return launch<false>(p, stream);
}

}  // namespace supertickets::cuda
