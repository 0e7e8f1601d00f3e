// The inner loops of the Jacobian operators; compiled once per instruction set.
#include "jacobian.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

inline constexpr int kTaps = 9;    // sums in registers at once: one window of 3x3
inline constexpr int kChains = 8;  // independent sums that hide the latency of a multiply-add

template <class A>
void live_pixels(LivePixelJob& job) {
  const A* row = static_cast<const A*>(job.plane);
  A* values = static_cast<A*>(job.values);
  int64_t count = 0;
  for (int64_t y = 0; y < job.height; ++y, row += job.stride_height) {
    int32_t offset = static_cast<int32_t>(y * job.pitch * kLanes<A>);
    for (int64_t x = 0; x < job.width; ++x, offset += kLanes<A>) {
      const A value = row[x * job.stride_width];
      values[count] = value;  // never past the end: count <= pixels seen
      job.offsets[count] = offset;
      count += value != A{0} ? 1 : 0;
    }
  }
  job.count = count;
}

template <class A, int kCount>
void live_taps(const LiveSumJob& job, int64_t first) {
  constexpr int kWays = kCount >= kChains ? 1 : kChains / kCount;
  const A* values = static_cast<const A*>(job.values);
  const A* at[kCount];
  for (int t = 0; t < kCount; ++t) {
    at[t] = static_cast<const A*>(job.gradient) + job.taps[first + t];
  }
  Vector<A> sums[kWays][kCount] = {};
  int64_t i = 0;
  for (; i + kWays <= job.count; i += kWays) {
    unroll<kWays>([&](auto way) SUPERTICKETS_LAMBDA_INLINE {
      const Vector<A> value = splat(values[i + way]);
      const int64_t offset = job.offsets[i + way];
      unroll<kCount>(
          [&](auto t) SUPERTICKETS_LAMBDA_INLINE { sums[way][t] += value * load(at[t] + offset); });
    });
  }
  for (; i < job.count; ++i) {
    const Vector<A> value = splat(values[i]);
    for (int t = 0; t < kCount; ++t) sums[0][t] += value * load(at[t] + job.offsets[i]);
  }
  A* out = static_cast<A*>(job.sums) + first * kLanes<A>;
  unroll<kCount>([&](auto t) SUPERTICKETS_LAMBDA_INLINE {
    Vector<A> sum = load(out + t * kLanes<A>);
    unroll<kWays>([&](auto way) SUPERTICKETS_LAMBDA_INLINE { sum += sums[way][t]; });
    store(out + t * kLanes<A>, sum);
  });
}

// Three rows of three neighbours: constant distances leave the registers to the sums.
template <class A>
void live_window(const LiveSumJob& job) {
  const A* values = static_cast<const A*>(job.values);
  const A* gradient = static_cast<const A*>(job.gradient);
  const A *top = gradient + job.taps[2], *middle = gradient + job.taps[5],
          *bottom = gradient + job.taps[8];
  Vector<A> sums[kTaps] = {};
  for (int64_t i = 0; i < job.count; ++i) {
    Vector<A> value = splat(values[i]);
    keep_in_register<A>(value);
    const int64_t offset = job.offsets[i];
    unroll<3>([&](auto t) SUPERTICKETS_LAMBDA_INLINE {
      sums[t] += value * load(top + offset + (2 - t) * kLanes<A>);
      sums[3 + t] += value * load(middle + offset + (2 - t) * kLanes<A>);
      sums[6 + t] += value * load(bottom + offset + (2 - t) * kLanes<A>);
    });
  }
  A* out = static_cast<A*>(job.sums);
  unroll<kTaps>([&](auto t) SUPERTICKETS_LAMBDA_INLINE {
    store(out + t * kLanes<A>, load(out + t * kLanes<A>) + sums[t]);
  });
}

template <class A>
bool is_window(const LiveSumJob& job) {
  if (job.tap_count != kTaps) return false;
  for (int t = 0; t < kTaps; ++t) {
    if (job.taps[t] != job.taps[t / 3 * 3 + 2] + (2 - t % 3) * kLanes<A>) return false;
  }
  return true;
}

template <class A>
void live_sum(const LiveSumJob& job) {
  if (is_window<A>(job)) return live_window<A>(job);
  int64_t t = 0;
  for (; t + 5 <= job.tap_count; t += 5) live_taps<A, 5>(job, t);
  switch (job.tap_count - t) {
    case 4:
      return live_taps<A, 4>(job, t);
    case 3:
      return live_taps<A, 3>(job, t);
    case 2:
      return live_taps<A, 2>(job, t);
    case 1:
      return live_taps<A, 1>(job, t);
  }
}

template <class A, bool kEach, int kCount>
void dense_taps(const DenseSumJob& job, int64_t first) {
  constexpr int kWays = kCount >= kChains ? 1 : kChains / kCount;
  const A* at[kCount];
  for (int t = 0; t < kCount; ++t) at[t] = static_cast<const A*>(job.x) + job.taps[first + t];
  const A* gradient = static_cast<const A*>(job.gradient);
  Vector<A> sums[kWays][kCount] = {};
  const auto add = [&](auto way, int64_t offset, Vector<A> value) SUPERTICKETS_LAMBDA_INLINE {
    unroll<kCount>([&](auto t) SUPERTICKETS_LAMBDA_INLINE {
      if constexpr (kEach) {
        sums[way][t] += value * load(at[t] + offset);
      } else {
        sums[way][t] += value * splat(at[t][offset]);
      }
    });
  };
  for (int64_t y = 0; y < job.out_height; ++y) {
    int64_t offset = y * job.step_height, x = 0;
    for (; x + kWays <= job.out_width; x += kWays, gradient += kWays * kLanes<A>) {
      unroll<kWays>([&](auto way) SUPERTICKETS_LAMBDA_INLINE {
        add(way, offset, load(gradient + way * kLanes<A>));
        offset += job.step_width;
      });
    }
    for (; x < job.out_width; ++x, gradient += kLanes<A>, offset += job.step_width) {
      add(std::integral_constant<int, 0>{}, offset, load(gradient));
    }
  }
  A* out = static_cast<A*>(job.sums) + first * kLanes<A>;
  unroll<kCount>([&](auto t) SUPERTICKETS_LAMBDA_INLINE {
    Vector<A> sum = load(out + t * kLanes<A>);
    unroll<kWays>([&](auto way) SUPERTICKETS_LAMBDA_INLINE { sum += sums[way][t]; });
    store(out + t * kLanes<A>, sum);
  });
}

template <class A, bool kEach>
void dense_sum(const DenseSumJob& job) {
  int64_t t = 0;
  for (; t + kTaps <= job.tap_count; t += kTaps) dense_taps<A, kEach, kTaps>(job, t);
  for (; t + 3 <= job.tap_count; t += 3) dense_taps<A, kEach, 3>(job, t);
  for (; t < job.tap_count; ++t) dense_taps<A, kEach, 1>(job, t);
}

template <class A>
void gram_tile(GramTileJob& job) {
  const A* one[kGramRows];
  const A* two[kGramColumns];
  for (int i = 0; i < kGramRows; ++i) one[i] = static_cast<const A*>(job.one[i]);
  for (int j = 0; j < kGramColumns; ++j) two[j] = static_cast<const A*>(job.two[j]);
  Vector<A> sums[kGramRows][kGramColumns] = {};
  int64_t k = 0;
  for (; k + kLanes<A> <= job.count; k += kLanes<A>) {
    Vector<A> left[kGramRows];
    unroll<kGramRows>([&](auto i) SUPERTICKETS_LAMBDA_INLINE { left[i] = load(one[i] + k); });
    unroll<kGramColumns>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
      Vector<A> right = load(two[j] + k);
      keep_in_register<A>(right);
      unroll<kGramRows>([&](auto i) SUPERTICKETS_LAMBDA_INLINE { sums[i][j] += left[i] * right; });
    });
  }
  for (int i = 0; i < kGramRows; ++i) {
    for (int j = 0; j < kGramColumns; ++j) {
      double sum = static_cast<double>(horizontal_sum<A>(sums[i][j]));
      for (int64_t rest = k; rest < job.count; ++rest) {
        sum += static_cast<double>(one[i][rest]) * static_cast<double>(two[j][rest]);
      }
      job.sums[i][j] = sum;
    }
  }
}

}  // namespace

const JacobianKernels& jacobian_kernels() {
  static const JacobianKernels kernels = {
      {&live_pixels<float>, &live_pixels<double>},
      {&live_sum<float>, &live_sum<double>},
      {{&dense_sum<float, false>, &dense_sum<float, true>},
       {&dense_sum<double, false>, &dense_sum<double, true>}},
      {&gram_tile<float>, &gram_tile<double>},
      {kLanes<float>, kLanes<double>},
  };
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
