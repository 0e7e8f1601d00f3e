// Output planes as sums of taps: the forward pass and the gradient of the input.
//
// A warp computes a tile of one output plane: 32 threads times kColumns columns, each of 16 bytes
// in lanes, of one pixel otherwise. It stages 32 taps at a time in shared memory, from where every
// thread reads the same one; taps that the phase does not meet are left out there. Neighbouring
// threads read neighbouring bytes. The warps of a block have rows of about the same length and walk
// over the same input, so that the first cache serves them.
#include "block.cuh"
#include "conv_column.cuh"
#include "number.cuh"
#include "pack.cuh"

namespace supertickets::cuda {
namespace {

// The blocks' work: row groups, phases and column tiles, the last fastest.
struct SumPlan {
  PhaseMap maps[2][2];  // of the first phase, of the others; y, x
  int64_t tiles, row_blocks;

  __device__ PhaseMap map(const ConvAxes& axes, int32_t phase_y, int32_t phase_x) const;
};

// Phases differ by at most a row and a column, so one of four maps fits.
__device__ PhaseMap SumPlan::map(const ConvAxes& axes, int32_t phase_y, int32_t phase_x) const {
  const int y = PhaseMap::part(axes.y, phase_y) != maps[0][0].height;
  const int x = PhaseMap::part(axes.x, phase_x) != maps[0][0].width;
  return maps[y][x];
}

template <class Number, int kInner>
struct SumTile {
  using Word = typename Number::Word;
  using Sum = typename Number::Sum;
  static constexpr int kWide = kInner == 1 ? 1 : 16 / static_cast<int>(sizeof(Word));
  static constexpr int kPieces = kInner / kWide;
  static constexpr int kColumns = kInner == 1 ? 4 : 2;
  static constexpr int kTile = 32 * kColumns;

  // A thread's columns.
  int64_t from[kColumns];  // in the input, of a tap without reach
  int64_t to[kColumns];    // in the output, of row 0
  int32_t y[kColumns], x[kColumns];
  bool exists[kColumns];
  Sum sums[kColumns][kWide];

  __device__ void start(const ConvSumParams& p, const PhaseMap& map, int64_t tile, int lane,
                        int32_t phase_y, int32_t phase_x, int64_t first_plane) {
    for (int c = 0; c < kColumns; ++c) {
      const int64_t flat = tile * kTile + c * 32 + lane;
      const int64_t image = map.columns > 0 ? flat / map.columns : p.images;
      exists[c] = image < p.images;
      const Pixel pixel = pixel_of(map, exists[c] ? static_cast<int32_t>(flat % map.columns) : 0);
      y[c] = pixel.y * p.axes.y.read_step;
      x[c] = pixel.x * p.axes.x.read_step;
      const int64_t piece = pixel.piece * kWide;
      const int64_t plane = image * p.in_planes + first_plane;
      const int64_t line = plane * p.axes.y.inputs + y[c];
      from[c] = (line * p.axes.x.inputs + x[c]) * kInner + piece;
      const int64_t row =
          image * p.rows.rows * p.axes.y.outputs + int64_t{pixel.y} * p.axes.y.phases + phase_y;
      to[c] =
          (row * p.axes.x.outputs + int64_t{pixel.x} * p.axes.x.phases + phase_x) * kInner + piece;
      for (int i = 0; i < kWide; ++i) sums[c][i] = 0;
    }
  }

  // kInside: no tap of the kernel leaves the map anywhere in this warp's tile.
  template <bool kInside>
  __device__ void add(const ConvSumParams& p, const Reach* reaches, const Sum* values, int count) {
    const auto* in = static_cast<const Word*>(p.in);
    for (int t = 0; t < count; ++t) {
      const Reach reach = reaches[t];
      const Sum value = values[t];
      for (int c = 0; c < kColumns; ++c) {
        Pack<Word, kWide> words{};
        if (kInside || (exists[c] && is_inside(p.axes, y[c] + reach.y, x[c] + reach.x))) {
          words = *reinterpret_cast<const Pack<Word, kWide>*>(in + from[c] + reach.offset);
        }
        for (int i = 0; i < kWide; ++i) sums[c][i] += value * Number::widened(words.values[i]);
      }
    }
  }

  __device__ bool is_interior(const ConvAxes& axes, const Reach& least, const Reach& most) const {
    bool inside = true;
    for (int c = 0; c < kColumns; ++c) {
      inside = inside && exists[c] && is_inside(axes, y[c] + least.y, x[c] + least.x) &&
               is_inside(axes, y[c] + most.y, x[c] + most.x);
    }
    return inside;
  }

  __device__ void finish(const ConvSumParams& p, int64_t row) {
    const int64_t plane = int64_t{p.axes.y.outputs} * p.axes.x.outputs * kInner;
    const auto* residual = static_cast<const Word*>(p.residual);
    const Sum bias =
        p.bias == nullptr ? Sum{0} : Number::widened(static_cast<const Word*>(p.bias)[row]);
    for (int c = 0; c < kColumns; ++c) {
      if (!exists[c]) continue;
      const int64_t at = to[c] + row * plane;
      using Words = Pack<Word, kWide>;
      Words added{};
      if (residual != nullptr) added = *reinterpret_cast<const Words*>(residual + at);
      Words words;
      for (int i = 0; i < kWide; ++i) {
        Sum value = sums[c][i] + bias;
        if (residual != nullptr) value += Number::widened(added.values[i]);
        words.values[i] = Number::narrowed(p.relu && value < 0 ? Sum{0} : value);
      }
      *reinterpret_cast<Words*>(static_cast<Word*>(p.out) + at) = words;
    }
  }
};

// The reaches of the kernel's corners, rounded towards zero where no tap is.
__device__ void corners(const ConvAxis& axis, int32_t phase, int32_t* least, int32_t* most) {
  int32_t first, last;
  delta_of(axis, phase, 0, &first);
  delta_of(axis, phase, axis.taps - 1, &last);
  *least = first < last ? first : last;
  *most = first < last ? last : first;
}

template <class Number, int kInner>
__global__ void __launch_bounds__(kThreads, 2) sum_taps(ConvSumParams p, SumPlan plan) {
  using Sum = typename Number::Sum;
  __shared__ Reach reaches[kWarps][32];
  __shared__ Sum values[kWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t phases = int64_t{p.axes.y.phases} * p.axes.x.phases;
  const int64_t work = plan.row_blocks * phases * plan.tiles;
  for (int64_t i = blockIdx.x; i < work; i += gridDim.x) {
    const int64_t part = i / plan.tiles;
    const auto phase = static_cast<int32_t>(part % phases);
    const int32_t phase_y = phase / p.axes.x.phases, phase_x = phase % p.axes.x.phases;
    const int64_t slot = part / phases * kWarps + warp;
    if (slot >= p.rows.rows) continue;
    const int64_t row = p.rows.order[slot];
    const int32_t count = p.rows.counts[row];
    const auto* taps = static_cast<const Tap<Sum>*>(p.rows.taps) + row * p.rows.capacity;
    SumTile<Number, kInner> tile;
    tile.start(p, plan.map(p.axes, phase_y, phase_x), i % plan.tiles, lane, phase_y, phase_x,
               row / p.rows.group_rows * p.group_planes);
    Reach least{}, most{};
    corners(p.axes.y, phase_y, &least.y, &most.y);
    corners(p.axes.x, phase_x, &least.x, &most.x);
    const bool inside = __all_sync(kAllLanes, tile.is_interior(p.axes, least, most)) != 0;
    for (int32_t first = 0; first < count; first += 32) {
      Tap<Sum> tap{};
      Reach reach{};
      bool met = false;
      if (first + lane < count) {
        tap = taps[first + lane];
        met = reach_of(p.rows, p.axes, phase_y, phase_x, kInner, tap.place, &reach);
      }
      const unsigned votes = __ballot_sync(kAllLanes, met);
      if (met) {
        const int at = __popc(votes & ((1u << lane) - 1));
        reaches[warp][at] = reach;
        values[warp][at] = tap.value;
      }
      __syncwarp();
      if (inside) {
        tile.template add<true>(p, reaches[warp], values[warp], __popc(votes));
      } else {
        tile.template add<false>(p, reaches[warp], values[warp], __popc(votes));
      }
      __syncwarp();  // the taps are read before the next ones are written
    }
    tile.finish(p, row);
  }
}

template <class Number, int kInner>
void launch(const ConvSumParams& p, cudaStream_t stream) {
  using Tile = SumTile<Number, kInner>;
  SumPlan plan;
  for (int y = 0; y < 2; ++y) {
    for (int x = 0; x < 2; ++x) {
      const int32_t phase_y = y == 0 ? 0 : p.axes.y.phases - 1;
      const int32_t phase_x = x == 0 ? 0 : p.axes.x.phases - 1;
      plan.maps[y][x] = phase_map(p.axes, phase_y, phase_x, Tile::kPieces);
    }
  }
  const int64_t columns = p.images * plan.maps[0][0].columns;
  plan.tiles = (columns + Tile::kTile - 1) / Tile::kTile;
  plan.row_blocks = (p.rows.rows + kWarps - 1) / kWarps;
  const int64_t work = plan.tiles * plan.row_blocks * p.axes.y.phases * p.axes.x.phases;
  if (work == 0) return;
  const auto kernel = sum_taps<Number, kInner>;
  // One block for each piece of work: the device hands them out, the longest first.
  const auto blocks = static_cast<unsigned>(work < INT32_MAX ? work : INT32_MAX);
  SUPERTICKETS_LAUNCH(kernel, blocks, kThreads, 0, stream, p, plan);
}

}  // namespace

ConvAxes forward_axes(const Conv2dShape& s) {
  const auto axis = [](int64_t outputs, int64_t inputs, int64_t taps, int64_t stride, int64_t pad,
                       int64_t dilation) {
    return ConvAxis{static_cast<int32_t>(outputs),
                    static_cast<int32_t>(inputs),
                    static_cast<int32_t>(taps),
                    static_cast<int32_t>(stride),
                    1,
                    static_cast<int32_t>(-pad),
                    static_cast<int32_t>(dilation)};
  };
  return {
      axis(s.out_height, s.height, s.kernel_height, s.stride_height, s.pad_top, s.dilation_height),
      axis(s.out_width, s.width, s.kernel_width, s.stride_width, s.pad_left, s.dilation_width)};
}

ConvAxes grad_input_axes(const Conv2dShape& s) {
  const ConvAxes forward = forward_axes(s);
  const auto turned = [](const ConvAxis& f) {
    return ConvAxis{f.inputs, f.outputs, f.taps, 1, f.read_step, -f.offset, -f.tap_step};
  };
  return {turned(forward.y), turned(forward.x)};
}

cudaError_t conv_sum(const ConvSumParams& p, cudaStream_t stream) {
  with_number(p.storage, [&](auto number) {
    using Number = decltype(number);
    if (p.inner == 1) return launch<Number, 1>(p, stream);
    launch<Number, static_cast<int>(kInner)>(p, stream);
  });
  return cudaGetLastError();
}

}  // namespace supertickets::cuda
