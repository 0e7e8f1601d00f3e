// The gradient of the weight, of the kept weights alone: a dot product over all pixels for each.
//
// A warp computes kTaps neighbouring taps of one row over one slice of the pixels, so that they
// share what is read of the output's gradient. Slices depend on the shape alone, and are summed in
// their order by a second kernel: the same bits on every card, without atomics.
#include "block.cuh"
#include "conv_column.cuh"
#include "number.cuh"
#include "pack.cuh"

namespace supertickets::cuda {
namespace {

constexpr int kTaps = 8;
constexpr int64_t kWarpsWanted = 1 << 13;  // enough for the largest card
constexpr int64_t kSlicesMost = 256;
constexpr int64_t kSliceLeast = 256;  // columns of a slice

struct DotPlan {
  PhaseMap map;
  int64_t columns, slice, slices, chunks;
};

int64_t pieces_of(const ConvDotParams& p) {
  const int64_t bytes = p.storage == StorageType::kFloat64   ? 8
                        : p.storage == StorageType::kFloat32 ? 4
                                                             : 2;
  return p.inner == 1 ? 1 : p.inner * bytes / 16;
}

DotPlan plan_of(const ConvDotParams& p) {
  DotPlan plan;
  plan.map = phase_map(p.axes, 0, 0, pieces_of(p));
  plan.columns = p.images * plan.map.columns;
  plan.chunks = (p.rows.capacity + kTaps - 1) / kTaps;
  const int64_t warps = p.rows.rows * plan.chunks;
  int64_t slices = warps > 0 ? kWarpsWanted / warps : 1;
  slices = slices < kSlicesMost ? slices : kSlicesMost;
  const int64_t most = plan.columns / kSliceLeast;
  slices = slices < most ? slices : most;
  slices = slices > 1 ? slices : 1;
  plan.slice = (plan.columns + slices - 1) / slices;
  plan.slices = slices;
  return plan;
}

template <class Number, int kInner>
struct DotWarp {
  using Word = typename Number::Word;
  using Sum = typename Number::Sum;
  static constexpr int kWide = kInner == 1 ? 1 : 16 / static_cast<int>(sizeof(Word));
  using Words = Pack<Word, kWide>;
  Sum sums[kTaps] = {};

  __device__ void add(const ConvDotParams& p, const DotPlan& plan, int64_t row, int64_t begin,
                      int64_t end, const Reach* reaches, int count) {
    const int64_t in_plane = int64_t{p.axes.y.inputs} * p.axes.x.inputs;
    const int64_t out_plane = int64_t{p.axes.y.outputs} * p.axes.x.outputs;
    const int64_t first_plane = row / p.rows.group_rows * p.group_planes;
    int64_t image = begin / plan.map.columns;
    int64_t column = begin % plan.map.columns;
    for (int64_t at = begin; at < end; at += 32, column += 32) {
      while (column >= plan.map.columns) {
        column -= plan.map.columns;
        ++image;
      }
      const Pixel pixel = pixel_of(plan.map, static_cast<int32_t>(column));
      const int64_t out = (image * p.rows.rows + row) * out_plane * kInner + column * kWide;
      const Words words =
          *reinterpret_cast<const Words*>(static_cast<const Word*>(p.grad_out) + out);
      const int32_t y = pixel.y * p.axes.y.read_step, x = pixel.x * p.axes.x.read_step;
      const int64_t plane = (image * p.in_planes + first_plane) * in_plane;
      const int64_t in =
          (plane + int64_t{y} * p.axes.x.inputs + x) * kInner + int64_t{pixel.piece} * kWide;
      for (int t = 0; t < kTaps; ++t) {
        if (t >= count || !is_inside(p.axes, y + reaches[t].y, x + reaches[t].x)) continue;
        const Words others = *reinterpret_cast<const Words*>(static_cast<const Word*>(p.in) + in +
                                                             reaches[t].offset);
        for (int i = 0; i < kWide; ++i) {
          sums[t] += Number::widened(words.values[i]) * Number::widened(others.values[i]);
        }
      }
    }
  }
};

template <class Number, int kInner>
__global__ void __launch_bounds__(kThreads) dot_taps(ConvDotParams p, DotPlan plan) {
  using Sum = typename Number::Sum;
  __shared__ Reach reaches[kWarps][kTaps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t work = plan.slices * p.rows.rows * plan.chunks;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + warp; i < work;
       i += int64_t{gridDim.x} * kWarps) {
    const int64_t chunk = i % plan.chunks, part = i / plan.chunks;
    const int64_t row = p.rows.order[part % p.rows.rows], slice = part / p.rows.rows;
    const int64_t left = p.rows.counts[row] - chunk * kTaps;
    if (left <= 0) continue;
    const int count = static_cast<int>(left < kTaps ? left : kTaps);
    const int64_t first = row * p.rows.capacity + chunk * kTaps;
    if (lane < count) {
      const auto* taps = static_cast<const Tap<Sum>*>(p.rows.taps) + first;
      reach_of(p.rows, p.axes, 0, 0, kInner, taps[lane].place, &reaches[warp][lane]);
    }
    __syncwarp();
    DotWarp<Number, kInner> dot;
    const int64_t begin = slice * plan.slice, end = begin + plan.slice;
    dot.add(p, plan, row, begin + lane, end < plan.columns ? end : plan.columns, reaches[warp],
            count);
    auto* out = static_cast<Sum*>(p.partial) + slice * p.rows.rows * p.rows.capacity + first;
    for (int t = 0; t < kTaps; ++t) {  // unrolled: sums stay in registers
      const Sum sum = warp_sum(dot.sums[t]);
      if (lane == 0 && t < count) out[t] = sum;
    }
    __syncwarp();  // the reaches are read before the next ones are written
  }
}

// The taps of a row go to their places in the weight.
template <class Number>
__global__ void __launch_bounds__(kThreads) sum_slices(ConvDotParams p, int64_t slices) {
  using Sum = typename Number::Sum;
  const int64_t entries = p.rows.rows * p.rows.capacity, stride = int64_t{gridDim.x} * kThreads;
  const auto* partial = static_cast<const Sum*>(p.partial);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < entries; i += stride) {
    const int64_t row = i / p.rows.capacity;
    if (i - row * p.rows.capacity >= p.rows.counts[row]) continue;
    Sum sum = 0;
    for (int64_t s = 0; s < slices; ++s) sum += partial[s * entries + i];
    const int32_t place = static_cast<const Tap<Sum>*>(p.rows.taps)[i].place;
    const int64_t at = p.rows.first(row) + place;  // a row of the forward pass is contiguous
    static_cast<typename Number::Word*>(p.grad_weight)[at] = Number::narrowed(sum);
  }
}

template <class Number, int kInner>
void launch(const ConvDotParams& p, const DotPlan& plan, cudaStream_t stream) {
  const int64_t work = plan.slices * p.rows.rows * plan.chunks;
  const auto dots = dot_taps<Number, kInner>;
  const unsigned blocks = blocks_for((work + kWarps - 1) / kWarps, 32);
  SUPERTICKETS_LAUNCH(dots, blocks, kThreads, 0, stream, p, plan);
  const auto sums = sum_slices<Number>;
  const int64_t entries = p.rows.rows * p.rows.capacity;
  const unsigned sum_blocks = blocks_for((entries + kThreads - 1) / kThreads, 8);
  SUPERTICKETS_LAUNCH(sums, sum_blocks, kThreads, 0, stream, p, plan.slices);
}

}  // namespace

int64_t dot_bytes(const ConvDotParams& p) {
  const int64_t sum = p.storage == StorageType::kFloat64 ? 8 : 4;
  return plan_of(p).slices * p.rows.rows * p.rows.capacity * sum;
}

cudaError_t conv_dot(const ConvDotParams& p, cudaStream_t stream) {
  const DotPlan plan = plan_of(p);
  if (plan.columns == 0 || p.rows.rows * p.rows.capacity == 0) return cudaSuccess;
  with_number(p.storage, [&](auto number) {
    using Number = decltype(number);
    if (p.inner == 1) return launch<Number, 1>(p, plan, stream);
    launch<Number, static_cast<int>(kInner)>(p, plan, stream);
  });
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
