// Sums of taps over the tile buffer, and dot products with it. Include only from kernel files.
#pragma once

#include "masked_conv2d.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

template <class A>
inline constexpr int kLineVectors = static_cast<int>(kLine) / kLanes<A>;

// Lines of a tile: two planes of them fill the accumulators.
template <class A>
inline constexpr int kTileLines =
    kAccumulators / (2 * kLineVectors<A>) > 0 ? kAccumulators / (2 * kLineVectors<A>) : 1;

inline constexpr int kTileRows = 3;  // most rows of a tile

// Writes past the caches; `to` is aligned to a vector.
template <class A>
SUPERTICKETS_INLINE void stream(A* to, Vector<A> v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(v));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(v));
#else
  store(to, v);
#endif
}

// Makes streamed writes visible to other threads.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class A>
SUPERTICKETS_INLINE Vector<A> rectify(Vector<A> v) {  // NaN stays NaN
  return v < Vector<A>{} ? Vector<A>{} : v;
}

// Fetches the strips [done, target) and returns target.
SUPERTICKETS_INLINE int64_t fetch(const Prefetch& p, int64_t done, int64_t target) {
  for (; done < target; ++done) {
    const int64_t row = p.rows[done % p.row_count];
    if (row == kOutside) continue;
    const char* strip = p.base + done / p.row_count * p.step + row;
    for (int64_t byte = 0; byte < p.bytes; byte += 64) __builtin_prefetch(strip + byte, 0, 2);
  }
  return done;
}

// Vectors of a tile, counted plane 0 first: vector j of a plane is part j % kLineVectors of line
// j / kLineVectors, and that line is in row line / kColumns.
template <class A, int kRows, int kColumns>
struct TileVectors {
  static constexpr int kPlane = kRows * kColumns * kLineVectors<A>;

  template <int j>
  static SUPERTICKETS_INLINE int64_t at(int64_t row_step, int64_t column_step) {
    constexpr int kVector = j % kPlane, kInLine = kVector % kLineVectors<A>;
    constexpr int kAtLine = kVector / kLineVectors<A>;
    return kAtLine / kColumns * row_step + kAtLine % kColumns * column_step +
           kInLine * kLanes<A>;
  }
};

template <class A, int kRows, int kColumns, bool kTwo>
SUPERTICKETS_INLINE void run_pair(const RunJob<A>& job, const Run& run, int64_t plane) {
  using Tile = TileVectors<A, kRows, kColumns>;
  constexpr int kPlane = Tile::kPlane, kAll = kTwo ? 2 * kPlane : kPlane;
  Vector<A> sum[kAll];
  if (job.from.data != nullptr) {
    const A* from = job.from.data + plane * job.from.plane;
    unroll<kAll>([&](auto j) {
      sum[j] = load(from + (j >= kPlane ? job.from.plane : 0) +
                    Tile::template at<j>(job.from.row, job.from.column));
    });
  } else {
    const A first = job.bias == nullptr ? A{0} : job.bias[plane];
    const A second = kTwo && job.bias != nullptr ? job.bias[plane + 1] : A{0};
    unroll<kAll>([&](auto j) { sum[j] = splat<A>(j >= kPlane ? second : first); });
  }
  const int64_t row_step = job.row_step;
  const A* in = job.in;
  const auto* both = reinterpret_cast<const PairTap<A>*>(job.taps + run.taps);
  const auto* both_end = both + run.both;
  if constexpr (kTwo) {
    for (; both != both_end; ++both) {
      const Vector<A> first = splat<A>(both->first), second = splat<A>(both->second);
      const A* from = in + both->offset;
      unroll<kPlane>([&](auto j) {
        const Vector<A> x = load(from + Tile::template at<j>(row_step, kLine));
        sum[j] += first * x;
        sum[kPlane + j] += second * x;
      });
    }
  }
  const auto* tap = reinterpret_cast<const Tap<A>*>(both_end);
  const auto alone = [&](auto which, const Tap<A>* end) SUPERTICKETS_LAMBDA_INLINE {
    for (; tap != end; ++tap) {
      const Vector<A> value = splat<A>(tap->value);
      const A* from = in + tap->offset;
      unroll<kPlane>([&](auto j) {
        sum[which * kPlane + j] += value * load(from + Tile::template at<j>(row_step, kLine));
      });
    }
  };
  alone(std::integral_constant<int, 0>{}, tap + run.first);
  if constexpr (kTwo) alone(std::integral_constant<int, 1>{}, tap + run.second);
  A* to = job.to.data + plane * job.to.plane;
  const auto place = [&](auto j) SUPERTICKETS_LAMBDA_INLINE {
    return (j >= kPlane ? job.to.plane : 0) + Tile::template at<j>(job.to.row, job.to.column);
  };
  if (job.residual != nullptr) {
    const A* residual = job.residual + plane * job.to.plane;
    unroll<kAll>([&](auto j) { sum[j] += load(residual + place(j)); });
  }
  if (job.relu) unroll<kAll>([&](auto j) { sum[j] = rectify<A>(sum[j]); });
  if (job.stream) {
    unroll<kAll>([&](auto j) { stream<A>(to + place(j), sum[j]); });
  } else {
    unroll<kAll>([&](auto j) { store(to + place(j), sum[j]); });
  }
}

template <class A, int kRows, int kColumns>
void run_tile(const RunJob<A>& job_in) {
  const RunJob<A> job = job_in;  // stores cannot alias it
  int64_t fetched = 0;
  for (int64_t i = 0; i < job.count; ++i) {
    if (job.prefetch.base != nullptr) {
      fetched = fetch(job.prefetch, fetched, job.prefetch.strips * (i + 1) / job.count);
    }
    if (2 * i + 1 < job.planes) {
      run_pair<A, kRows, kColumns, true>(job, job.runs[i], 2 * i);
    } else {
      run_pair<A, kRows, kColumns, false>(job, job.runs[i], 2 * i);
    }
  }
  if (job.stream) stream_fence();
}

// Four sums of vectors, added to four values in memory.
template <class A, int... I>
SUPERTICKETS_INLINE Vector<A> fold_halves(Vector<A> a, Vector<A> b,
                                          std::integer_sequence<int, I...>) {
  // lane 2i: a[i] + a[i + half], lane 2i + 1: the same of b
  constexpr int kHalf = kLanes<A> / 2;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * kLanes<A>)...) +
         __builtin_shufflevector(a, b, (kHalf + I / 2 + I % 2 * kLanes<A>)...);
#else
  return __builtin_shuffle(a, b, Lanes<A>{(I / 2 + I % 2 * kLanes<A>)...}) +
         __builtin_shuffle(a, b, Lanes<A>{(kHalf + I / 2 + I % 2 * kLanes<A>)...});
#endif
}

template <class A>
SUPERTICKETS_INLINE void add_sums(const Vector<A>* dots, A* values) {
  if constexpr (kLanes<A> >= 4) {
    constexpr auto kSequence = std::make_integer_sequence<int, kLanes<A>>{};
    const Vector<A> even = fold_halves<A>(dots[0], dots[2], kSequence);
    const Vector<A> odd = fold_halves<A>(dots[1], dots[3], kSequence);
    A lanes[kLanes<A>];
    store(lanes, fold_halves<A>(even, odd, kSequence));  // dots 0 1 2 3, again and again
    for (int width = kLanes<A> / 2; width >= 4; width /= 2) {
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    for (int i = 0; i < 4; ++i) values[i] += lanes[i];
  } else {
    for (int i = 0; i < 4; ++i) values[i] += horizontal_sum<A>(dots[i]);
  }
}

template <class A, int kRows, int kColumns, bool kTwo>
SUPERTICKETS_INLINE void dot_pair(const DotJob<A>& job, const Run& run, int64_t plane) {
  using Tile = TileVectors<A, kRows, kColumns>;
  constexpr int kPlane = Tile::kPlane, kAll = kTwo ? 2 * kPlane : kPlane;
  Vector<A> grad[kAll];
  const A* from = job.grad + plane * kPlane * kLanes<A>;
  unroll<kAll>([&](auto j) { grad[j] = load(from + j * kLanes<A>); });
  const int64_t row_step = job.row_step;
  A* values = job.values + run.values;
  const auto* both = reinterpret_cast<const PairTap<int32_t>*>(job.taps + run.taps);
  const auto* both_end = both + run.both;
  if constexpr (kTwo) {
    for (; both != both_end; ++both, values += 2) {
      Vector<A> first{}, second{};
      const A* at = job.in + both->offset;
      unroll<kPlane>([&](auto j) {
        const Vector<A> x = load(at + Tile::template at<j>(row_step, kLine));
        first += grad[j] * x;
        second += grad[kPlane + j] * x;
      });
      values[0] += horizontal_sum<A>(first);
      values[1] += horizontal_sum<A>(second);
    }
  }
  const auto* tap = reinterpret_cast<const Tap<int32_t>*>(both_end);
  const auto alone = [&](auto which, const Tap<int32_t>* end) SUPERTICKETS_LAMBDA_INLINE {
    const auto dot = [&](const Tap<int32_t>* t) SUPERTICKETS_LAMBDA_INLINE {
      Vector<A> sum[2] = {};
      const A* at = job.in + t->offset;
      unroll<kPlane>([&](auto j) {
        sum[j % 2] += grad[which * kPlane + j] * load(at + Tile::template at<j>(row_step, kLine));
      });
      return sum[0] + sum[1];
    };
    for (; tap + 4 <= end; tap += 4, values += 4) {
      const Vector<A> dots[4] = {dot(tap), dot(tap + 1), dot(tap + 2), dot(tap + 3)};
      add_sums<A>(dots, values);
    }
    for (; tap != end; ++tap, ++values) *values += horizontal_sum<A>(dot(tap));
  };
  alone(std::integral_constant<int, 0>{}, tap + run.first);
  if constexpr (kTwo) alone(std::integral_constant<int, 1>{}, tap + run.second);
}

template <class A, int kRows, int kColumns>
void dot_tile(const DotJob<A>& job_in) {
  const DotJob<A> job = job_in;
  for (int64_t i = 0; i < job.count; ++i) {
    if (2 * i + 1 < job.planes) {
      dot_pair<A, kRows, kColumns, true>(job, job.runs[i], 2 * i);
    } else {
      dot_pair<A, kRows, kColumns, false>(job, job.runs[i], 2 * i);
    }
  }
}

// Kernels by rows and columns of the tile; null where the tile would not fit the registers.
template <class Job>
struct TileTable {
  void (*run[kTileRows][14])(const Job&);
};

template <template <class> class Job, class A, class Pick, int... I>
constexpr TileTable<Job<A>> tile_table(const Pick& pick, std::integer_sequence<int, I...>) {
  TileTable<Job<A>> table{};
  ((table.run[I / 14][I % 14] = pick(std::integral_constant<int, I / 14 + 1>{},
                                     std::integral_constant<int, I % 14 + 1>{})),
   ...);
  return table;
}

template <class A>
void run(const RunJob<A>& job) {
  static constexpr auto kTable = tile_table<RunJob, A>(
      [](auto rows, auto columns) -> void (*)(const RunJob<A>&) {
        if constexpr (rows * columns <= kTileLines<A>) return &run_tile<A, rows, columns>;
        return nullptr;
      },
      std::make_integer_sequence<int, kTileRows * 14>{});
  kTable.run[job.rows - 1][job.columns - 1](job);
}

template <class A>
void dot(const DotJob<A>& job) {
  static constexpr auto kTable = tile_table<DotJob, A>(
      [](auto rows, auto columns) -> void (*)(const DotJob<A>&) {
        if constexpr (rows * columns <= kTileLines<A>) return &dot_tile<A, rows, columns>;
        return nullptr;
      },
      std::make_integer_sequence<int, kTileRows * 14>{});
  kTable.run[job.rows - 1][job.columns - 1](job);
}

}  // namespace supertickets::SUPERTICKETS_ISA
