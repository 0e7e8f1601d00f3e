// Depthwise convolutions, forward and the gradient of the input: a thread for each output number,
// in the order of memory, so that neighbours read neighbours in either layout and nothing is
// copied.
#include "block.cuh"
#include "conv_column.cuh"
#include "number.cuh"

namespace supertickets::cuda {
namespace {

// What one thread computes.
struct Target {
  int64_t image, row;
  int32_t y, x;
};

__device__ Target target_of(const ConvSumParams& p, bool channels_last, int64_t i) {
  const int64_t height = p.axes.y.outputs, width = p.axes.x.outputs;
  Target t;
  if (channels_last) {
    t.row = i % p.rows.rows;
    i /= p.rows.rows;
  }
  t.x = static_cast<int32_t>(i % width);
  i /= width;
  t.y = static_cast<int32_t>(i % height);
  i /= height;
  if (!channels_last) {
    t.row = i % p.rows.rows;
    i /= p.rows.rows;
  }
  t.image = i;
  return t;
}

template <class Number>
__device__ typename Number::Sum sum_of(const DepthwiseParams& d, const Target& t) {
  using Word = typename Number::Word;
  using Sum = typename Number::Sum;
  const ConvSumParams& p = d.sum;
  const auto* in = static_cast<const Word*>(p.in);
  const auto* weight = static_cast<const Word*>(d.weight);
  const int64_t plane = int64_t{p.axes.y.inputs} * p.axes.x.inputs;
  const int64_t pixel_step = d.channels_last ? p.in_planes : 1;
  const int64_t plane_step = d.channels_last ? 1 : plane;
  const int64_t first = t.row / p.rows.group_rows * p.group_planes;
  const int64_t from = t.image * p.in_planes * plane + first * plane_step;
  const int32_t phase_y = t.y % p.axes.y.phases, phase_x = t.x % p.axes.x.phases;
  const int32_t y = t.y / p.axes.y.phases * p.axes.y.read_step;
  const int32_t x = t.x / p.axes.x.phases * p.axes.x.read_step;
  Sum sum = 0;
  for (int64_t other = 0; other < p.group_planes; ++other) {
    int64_t at = p.rows.first(t.row) + other * p.rows.plane_step;
    for (int32_t ky = 0; ky < p.axes.y.taps; ++ky) {
      for (int32_t kx = 0; kx < p.axes.x.taps; ++kx, ++at) {
        int32_t down, right;
        if (d.mask != nullptr && !d.mask[at]) continue;
        if (!delta_of(p.axes.y, phase_y, ky, &down)) continue;
        if (!delta_of(p.axes.x, phase_x, kx, &right)) continue;
        Sum value = 0;
        if (is_inside(p.axes, y + down, x + right)) {
          const int64_t pixel = int64_t{y + down} * p.axes.x.inputs + x + right;
          value = Number::widened(in[from + other * plane_step + pixel * pixel_step]);
        }
        sum += Number::widened(weight[at]) * value;
      }
    }
  }
  return sum;
}

template <class Number>
__global__ void __launch_bounds__(kThreads, 2) depthwise_sums(DepthwiseParams d, int64_t count) {
  using Word = typename Number::Word;
  using Sum = typename Number::Sum;
  const ConvSumParams& p = d.sum;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    const Target target = target_of(p, d.channels_last, i);
    Sum sum = sum_of<Number>(d, target);
    if (p.bias != nullptr) sum += Number::widened(static_cast<const Word*>(p.bias)[target.row]);
    static_cast<Word*>(p.out)[i] = Number::narrowed(sum);
  }
}

}  // namespace

cudaError_t depthwise(const DepthwiseParams& d, cudaStream_t stream) {
  const ConvSumParams& p = d.sum;
  const int64_t count = p.images * p.rows.rows * p.axes.y.outputs * p.axes.x.outputs;
  if (count == 0) return cudaSuccess;
  with_number(p.storage, [&](auto number) {
    const auto kernel = depthwise_sums<decltype(number)>;
    const unsigned blocks = blocks_for((count + kThreads - 1) / kThreads, 8);
    SUPERTICKETS_LAUNCH(kernel, blocks, kThreads, 0, stream, d, count);
  });
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
