// The inner loops of masked_conv2d; compiled once per instruction set.
#include "half.h"
#include "masked_conv2d.h"
#include "masked_conv2d_copy.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

// kVectors accumulators over all taps of one output plane.
template <class A, int kVectors>
SUPERTICKETS_INLINE void sum_taps(const Tap<A>* tap, const Tap<A>* end, const A* in, A start,
                                  A* out) {
  Vector<A> sum[kVectors];
  unroll<kVectors>([&](auto j) { sum[j] = splat<A>(start); });
  for (; tap != end; ++tap) {
    const Vector<A> value = splat<A>(tap->value);
    const A* from = in + tap->offset;
    unroll<kVectors>([&](auto j) { sum[j] += value * load(from + j * kLanes<A>); });
  }
  unroll<kVectors>([&](auto j) { store(out + j * kLanes<A>, sum[j]); });
}

template <class A, int kVectors>
void tile_of(const TileJob<A>& job) {
  const TileJob<A> local = job;  // stores to `out` cannot alias it
  for (int64_t plane = 0; plane < local.planes; ++plane) {
    const A bias = local.bias == nullptr ? A{0} : local.bias[plane];
    sum_taps<A, kVectors>(local.taps + local.start[plane], local.taps + local.start[plane + 1],
                          local.in, bias, local.out + plane * local.out_plane_pitch);
  }
}

template <class A>
struct TileTable {
  void (*run[kTileVectors])(const TileJob<A>&);
};
template <class A, int... I>
constexpr TileTable<A> tile_table(std::integer_sequence<int, I...>) {
  return {{&tile_of<A, I + 1>...}};
}

template <class A>
void tile(const TileJob<A>& job) {
  static constexpr TileTable<A> kTable =
      tile_table<A>(std::make_integer_sequence<int, kTileVectors>{});
  kTable.run[job.vectors - 1](job);
}

// All bits set in the first `count` lanes.
template <class A>
SUPERTICKETS_INLINE Lanes<A> first_lanes(int64_t count) {
  using Integer = LaneInteger<A>;
  Integer lanes[kLanes<A>];
  for (int i = 0; i < kLanes<A>; ++i) lanes[i] = i < count ? Integer{-1} : Integer{0};
  Lanes<A> result;
  std::memcpy(&result, lanes, sizeof(result));
  return result;
}

// Loads and clears the lanes outside `keep`; what lies there may be NaN.
template <class A>
SUPERTICKETS_INLINE Vector<A> load_kept(const A* from, Lanes<A> keep) {
  Lanes<A> bits;
  std::memcpy(&bits, from, sizeof(bits));
  bits &= keep;
  Vector<A> v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}

// Taps share each load of grad_output; eight sums hide the latency of an addition.
inline constexpr int kDotTaps = 8;

template <class A, int kTaps>
SUPERTICKETS_INLINE void dot_taps(const DotJob<A>& job, int64_t first) {
  Vector<A> sum[kTaps];
  const A* from[kTaps];
  unroll<kTaps>([&](auto j) {
    sum[j] = Vector<A>{};
    from[j] = job.in + job.offsets[first + j];
  });
  const int64_t rest = job.columns % kLanes<A>;
  const int64_t whole = job.columns - rest;
  const Lanes<A> keep = first_lanes<A>(rest);
  for (int64_t row = 0; row < job.rows; ++row) {
    const A* grad = job.grad + row * job.grad_pitch;
    const int64_t shift = row * job.in_pitch;
    for (int64_t i = 0; i < whole; i += kLanes<A>) {
      const Vector<A> g = load(grad + i);
      unroll<kTaps>([&](auto j) { sum[j] += g * load(from[j] + shift + i); });
    }
    if (rest == 0) continue;
    const Vector<A> g = load_kept(grad + whole, keep);
    unroll<kTaps>([&](auto j) { sum[j] += g * load_kept(from[j] + shift + whole, keep); });
  }
  unroll<kTaps>([&](auto j) { job.sums[first + j] += horizontal_sum<A>(sum[j]); });
}

template <class A>
void dot(const DotJob<A>& job) {
  int64_t first = 0;
  for (; first + kDotTaps <= job.count; first += kDotTaps) dot_taps<A, kDotTaps>(job, first);
  for (; first < job.count; ++first) dot_taps<A, 1>(job, first);
}

}  // namespace

const MaskedConv2dKernels& masked_conv2d_kernels() {
  static const MaskedConv2dKernels kernels = {
      {&copy<float, true>, &copy<BFloat16, true>, &copy<Float16, true>, &copy<double, true>},
      {&copy<float, false>, &copy<BFloat16, false>, &copy<Float16, false>, &copy<double, false>},
      &tile<float>,
      &tile<double>,
      &dot<float>,
      &dot<double>,
      kTileVectors,
      kVectorBytes,
  };
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
