// Maps as the convolution kernels read and write them, and the way to and from the caller's layout.
#pragma once

#include <array>
#include <vector>

#include "../core/masked_conv2d_check.h"
#include "masked_conv2d.h"
#include "tensor_cuda.h"

namespace supertickets::cuda {

// What lies side by side in memory: the pixels of a row, or 16 images.
enum class Layout { kPixels, kLanes };

// From this many images on, lanes are worth the copies.
inline constexpr int64_t kLanesBatch = kInner / 2;

inline Layout layout_of(const Tensor& x) {
  return is_lanes(x) || x.size(0) >= kLanesBatch ? Layout::kLanes : Layout::kPixels;
}

inline int64_t inner_of(Layout layout) { return layout == Layout::kLanes ? kInner : 1; }

// [N, C, H, W]
Tensor empty_map(const Tensor& like, const std::array<int64_t, 4>& size, bool channels_last);

// x of four dimensions in lanes.
Tensor lanes_of(const char* op, const Tensor& x, cudaStream_t stream);
void put_lanes(const char* op, const Tensor& lanes, const Tensor& to, cudaStream_t stream);

// x as the kernels read it.
Tensor readable(const char* op, const Tensor& x, Layout layout, cudaStream_t stream);

// An output of `size` ([N, C, H, W], N as in x) for the kernels to write, in the end in x's layout.
class Output {
 public:
  Output(const Tensor& x, const std::array<int64_t, 4>& size, Layout layout);
  const Tensor& written() const { return written_; }
  Tensor finish(const char* op, cudaStream_t stream);

 private:
  Tensor result_, written_;
};

}  // namespace supertickets::cuda
