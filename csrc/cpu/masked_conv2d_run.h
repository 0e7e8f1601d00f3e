// Sums of taps over the tile buffer. Include only from kernel files.
#pragma once

#include "masked_conv2d.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

template <class A>
inline constexpr int kLineVectors = static_cast<int>(kLine) / kLanes<A>;

// Whether the accumulators hold two planes of a tile, so that taps which both have load their input
// once. With 16 registers they hold one: tiles twice as large are worth more than shared loads.
#if defined(__AVX512F__)
inline constexpr bool kSharesTaps = true;
#else
inline constexpr bool kSharesTaps = false;
#endif

// Whether sums that wait are fetched ahead of their run. Zen 3 finds them by itself, 2 % faster.
inline constexpr bool kFetchesSums = kSharesTaps;

// Lines of a tile: those of one plane, or of two, fill the accumulators.
template <class A>
inline constexpr int kTileLines = kAccumulators / ((kSharesTaps ? 2 : 1) * kLineVectors<A>);

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

// Fetches run i's share of the strips, of `count` runs.
SUPERTICKETS_INLINE void fetch(const Prefetch& p, int64_t i, int64_t count) {
  if (p.base == nullptr) return;
  const int64_t target = p.strips * (i + 1) / count;
  for (int64_t done = p.strips * i / count; done < target; ++done) {
    const int64_t row = p.rows[done % p.row_count];
    if (row == kOutside) continue;
    const char* strip = p.base + done / p.row_count * p.step + row;
    for (int64_t byte = 0; byte < p.bytes; byte += 64) __builtin_prefetch(strip + byte, 0, 2);
  }
}

// The vectors of one plane of a tile: vector j is part j % kLineVectors of line j / kLineVectors.
template <class A, int kRows, int kColumns>
struct TileVectors {
  static constexpr int kCount = kRows * kColumns * kLineVectors<A>;

  template <int j>
  static SUPERTICKETS_INLINE int64_t at(int64_t row_step, int64_t column_step) {
    constexpr int kInLine = j % kLineVectors<A>, kAtLine = j / kLineVectors<A>;
    return kAtLine / kColumns * row_step + kAtLine % kColumns * column_step + kInLine * kLanes<A>;
  }
};

// The sums of one plane. Loops work on a copy: the compiler keeps only that in registers.
template <class A, class Tile>
struct PlaneSums {
  static constexpr int kCount = Tile::kCount;
  Vector<A> sum[kCount];

  SUPERTICKETS_INLINE void start(const RunJob<A>& job, int64_t plane) {
    if (!job.first) {
      const A* from = job.sums + plane * kCount * kLanes<A>;
      unroll<kCount>([&](auto j)
                         SUPERTICKETS_LAMBDA_INLINE { sum[j] = load(from + j * kLanes<A>); });
    } else {
      const Vector<A> bias = splat<A>(job.bias == nullptr ? A{0} : job.bias[plane]);
      unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE { sum[j] = bias; });
    }
  }

  SUPERTICKETS_INLINE void add(const Tap<A>* tap, const Tap<A>* end, const A* in,
                               int64_t row_step) {
    Vector<A> local[kCount];
    unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE { local[j] = sum[j]; });
    for (; tap != end; ++tap) {
      const Vector<A> value = splat<A>(tap->value);
      const A* from = in + tap->offset;
      unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
        local[j] += value * load(from + Tile::template at<j>(row_step, kLine));
      });
    }
    unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE { sum[j] = local[j]; });
  }

  SUPERTICKETS_INLINE void finish(const RunJob<A>& job, int64_t plane) {
    if (job.out.data != nullptr) return put(job, plane);
    A* to = job.sums + plane * kCount * kLanes<A>;
    unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE { store(to + j * kLanes<A>, sum[j]); });
  }

  SUPERTICKETS_INLINE void put(const RunJob<A>& job, int64_t plane) {
    const auto place = [&](auto j) SUPERTICKETS_LAMBDA_INLINE {
      return plane * job.out.plane + Tile::template at<j>(job.out.row, job.out.column);
    };
    if (job.residual != nullptr) {
      unroll<kCount>([&](auto j)
                         SUPERTICKETS_LAMBDA_INLINE { sum[j] += load(job.residual + place(j)); });
    }
    if (job.relu) {
      unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE { sum[j] = rectify<A>(sum[j]); });
    }
    if (job.stream) {
      unroll<kCount>(
          [&](auto j) SUPERTICKETS_LAMBDA_INLINE { stream<A>(job.out.data + place(j), sum[j]); });
    } else {
      unroll<kCount>([&](auto j)
                         SUPERTICKETS_LAMBDA_INLINE { store(job.out.data + place(j), sum[j]); });
    }
  }
};

// Taps that two planes share.
template <class A, class Tile>
SUPERTICKETS_INLINE void add_both(PlaneSums<A, Tile>& a, PlaneSums<A, Tile>& b,
                                  const PairTap<A>* tap, const PairTap<A>* end, const A* in,
                                  int64_t row_step) {
  constexpr int kCount = Tile::kCount;
  Vector<A> first[kCount], second[kCount];
  unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
    first[j] = a.sum[j];
    second[j] = b.sum[j];
  });
  for (; tap != end; ++tap) {
    const Vector<A> value = splat<A>(tap->first), other = splat<A>(tap->second);
    const A* from = in + tap->offset;
    unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
      Vector<A> x = load(from + Tile::template at<j>(row_step, kLine));
      keep_in_register<A>(x);
      first[j] += value * x;
      second[j] += other * x;
    });
  }
  unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
    a.sum[j] = first[j];
    b.sum[j] = second[j];
  });
}

template <class A, int kRows, int kColumns, bool kTwo>
SUPERTICKETS_INLINE void run_pair(const RunJob<A>& job, const Run& run, int64_t plane) {
  PlaneSums<A, TileVectors<A, kRows, kColumns>> first, second;
  first.start(job, plane);
  if constexpr (kTwo && kSharesTaps) second.start(job, plane + 1);
  const auto* both = reinterpret_cast<const PairTap<A>*>(job.taps + run.taps);
  if constexpr (kTwo && kSharesTaps) {
    add_both(first, second, both, both + run.both, job.in, job.row_step);
  }
  const auto* tap = reinterpret_cast<const Tap<A>*>(both + run.both);
  first.add(tap, tap + run.first, job.in, job.row_step);
  first.finish(job, plane);
  if constexpr (kTwo) {
    if constexpr (!kSharesTaps) second.start(job, plane + 1);
    tap += run.first;
    second.add(tap, tap + run.second, job.in, job.row_step);
    second.finish(job, plane + 1);
  }
}

template <class A, int kRows, int kColumns>
void run_tile(const RunJob<A>& job_in) {
  using Tile = TileVectors<A, kRows, kColumns>;
  constexpr int64_t kPlane = Tile::kCount * kLanes<A>;
  const RunJob<A> job = job_in;  // stores cannot alias it
  for (int64_t i = 0; i < job.count; ++i) {
    fetch(job.prefetch, i, job.count);
    if (kFetchesSums && !job.first && i + 1 < job.count) {  // they wait in the second cache
      const A* ahead = job.sums + (2 * i + 2) * kPlane;
      constexpr int kCacheLine = 64 / sizeof(A);
      constexpr int kCacheLines = static_cast<int>(2 * kPlane) / kCacheLine;
      unroll<kCacheLines>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
        __builtin_prefetch(ahead + j * kCacheLine, 1, 3);
      });
    }
    if (2 * i + 1 < job.planes) {
      run_pair<A, kRows, kColumns, true>(job, job.runs[i], 2 * i);
    } else {
      run_pair<A, kRows, kColumns, false>(job, job.runs[i], 2 * i);
    }
  }
  if (job.stream) stream_fence();
}

// Kernels by rows and columns of the tile; null where the tile would not fit the registers.
template <class Job>
struct TileTable {
  void (*run[kTileRows][kTileColumns])(const Job&);
};

template <template <class> class Job, class A, class Pick, int... I>
constexpr TileTable<Job<A>> tile_table(const Pick& pick, std::integer_sequence<int, I...>) {
  TileTable<Job<A>> table{};
  ((table.run[I / kTileColumns][I % kTileColumns] =
        pick(std::integral_constant<int, I / kTileColumns + 1>{},
             std::integral_constant<int, I % kTileColumns + 1>{})),
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
      std::make_integer_sequence<int, kTileRows * kTileColumns>{});
  kTable.run[job.rows - 1][job.columns - 1](job);
}

}  // namespace supertickets::SUPERTICKETS_ISA
