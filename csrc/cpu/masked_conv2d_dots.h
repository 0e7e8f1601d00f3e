// Dot products with the tile buffer. Include only from kernel files.
#pragma once

#include "masked_conv2d_run.h"

namespace supertickets::SUPERTICKETS_ISA {

// Lane 4k + 2i: a[4k + i] + a[4k + i + 2], lane 4k + 2i + 1: the same of b. Nothing crosses a
// quarter of four lanes, so that this is two cheap instructions and an addition.
template <class A, int... I>
SUPERTICKETS_INLINE Vector<A> fold_halves(Vector<A> a, Vector<A> b,
                                          std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (I / 4 * 4 + I % 4 / 2 + I % 2 * kLanes<A>)...) +
         __builtin_shufflevector(a, b, (I / 4 * 4 + I % 4 / 2 + 2 + I % 2 * kLanes<A>)...);
#else
  return __builtin_shuffle(a, b, Lanes<A>{(I / 4 * 4 + I % 4 / 2 + I % 2 * kLanes<A>)...}) +
         __builtin_shuffle(a, b, Lanes<A>{(I / 4 * 4 + I % 4 / 2 + 2 + I % 2 * kLanes<A>)...});
#endif
}

// Four sums of vectors, added to four values in memory.
template <class A>
SUPERTICKETS_INLINE void add_sums(const Vector<A>* dots, A* values) {
  if constexpr (kLanes<A> >= 4) {
    constexpr auto kSequence = std::make_integer_sequence<int, kLanes<A>>{};
    const Vector<A> even = fold_halves<A>(dots[0], dots[2], kSequence);
    const Vector<A> odd = fold_halves<A>(dots[1], dots[3], kSequence);
    const Vector<A> all = fold_halves<A>(even, odd, kSequence);  // dots 0 1 2 3, again and again
    typedef A Four __attribute__((vector_size(4 * sizeof(A))));
    Four parts[kLanes<A> / 4], sum;
    std::memcpy(parts, &all, sizeof(all));
    std::memcpy(&sum, values, sizeof(sum));
    for (int width = kLanes<A> / 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
    }
    sum += parts[0];
    std::memcpy(values, &sum, sizeof(sum));
  } else {
    for (int i = 0; i < 4; ++i) values[i] += horizontal_sum<A>(dots[i]);
  }
}

// The same for fewer than four.
template <class A>
SUPERTICKETS_INLINE void add_some_sums(Vector<A>* dots, int count, A* values) {
  A sums[4] = {};
  for (int i = count; i < 4; ++i) dots[i] = Vector<A>{};
  add_sums<A>(dots, sums);
  for (int i = 0; i < count; ++i) values[i] += sums[i];
}

// Dot products that were not summed up yet: runs end anywhere, four are summed at a time.
template <class A>
struct WaitingDots {
  static constexpr int kMost = 64;  // 2 KB
  static_assert(kMost % 4 == 0);
  A* values;  // of the first one that waits
  int count = 0;
  Vector<A> dots[kMost];

  SUPERTICKETS_INLINE explicit WaitingDots(A* first) : values(first) {}

  void sum_up() {
    int i = 0;
    for (; i + 4 <= count; i += 4) add_sums<A>(dots + i, values + i);
    if (i < count) add_some_sums<A>(dots + i, count - i, values + i);
    values += count;
    count = 0;
  }
};

// One plane's grad_output, and its dot product with the buffer at an offset.
template <class A, class Tile>
struct PlaneDots {
  static constexpr int kCount = Tile::kCount;
  Vector<A> grad[kCount];

  SUPERTICKETS_INLINE explicit PlaneDots(const A* from) {
    unroll<kCount>([&](auto j)
                       SUPERTICKETS_LAMBDA_INLINE { grad[j] = load(from + j * kLanes<A>); });
  }

  SUPERTICKETS_INLINE Vector<A> dot(const A* in, int64_t row_step) const {
    Vector<A> even{}, odd{};
    unroll<kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
      (j % 2 == 0 ? even : odd) += grad[j] * load(in + Tile::template at<j>(row_step, kLine));
    });
    return even + odd;
  }

  SUPERTICKETS_INLINE A* add(const Tap<int32_t>* tap, const Tap<int32_t>* end, const A* in,
                             int64_t row_step, A* values) const {
    for (; tap + 4 <= end; tap += 4, values += 4) {
      Vector<A> dots[4];
      unroll<4>([&](auto i)
                    SUPERTICKETS_LAMBDA_INLINE { dots[i] = dot(in + tap[i].offset, row_step); });
      add_sums<A>(dots, values);
    }
    const int rest = static_cast<int>(end - tap);
    if (rest == 0) return values;
    Vector<A> dots[4];
    for (int i = 0; i < rest; ++i) dots[i] = dot(in + tap[i].offset, row_step);
    add_some_sums<A>(dots, rest, values);
    return values + rest;
  }

  SUPERTICKETS_INLINE void add(const Tap<int32_t>* tap, const Tap<int32_t>* end, const A* in,
                               int64_t row_step, WaitingDots<A>& waiting) const {
    while (tap != end) {
      const int64_t room = WaitingDots<A>::kMost - waiting.count;
      const Tap<int32_t>* stop = end - tap < room ? end : tap + room;
      Vector<A>* to = waiting.dots + waiting.count;
      waiting.count += static_cast<int>(stop - tap);
      for (; tap != stop; ++tap) *to++ = dot(in + tap->offset, row_step);
      if (waiting.count == WaitingDots<A>::kMost) waiting.sum_up();
    }
  }
};

template <class A, int kRows, int kColumns, bool kTwo>
SUPERTICKETS_INLINE void dot_pair(const DotJob<A>& job, const Run& run, int64_t plane) {
  using Tile = TileVectors<A, kRows, kColumns>;
  const A* grad = job.grad + plane * Tile::kCount * kLanes<A>;
  A* values = job.values + run.values;
  const auto* both = reinterpret_cast<const PairTap<int32_t>*>(job.taps + run.taps);
  const PlaneDots<A, Tile> first(grad), second(kTwo ? grad + Tile::kCount * kLanes<A> : grad);
  const auto dot = [&](const PairTap<int32_t>* tap, Vector<A>* dots) SUPERTICKETS_LAMBDA_INLINE {
    Vector<A> one{}, other{};
    const A* in = job.in + tap->offset;
    unroll<Tile::kCount>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
      Vector<A> x = load(in + Tile::template at<j>(job.row_step, kLine));
      keep_in_register<A>(x);
      one += first.grad[j] * x;
      other += second.grad[j] * x;
    });
    dots[0] = one;
    dots[1] = other;
  };
  const auto* both_end = both + run.both;
  Vector<A> dots[4];
  for (; both + 2 <= both_end; both += 2, values += 4) {
    dot(both, dots);
    dot(both + 1, dots + 2);
    add_sums<A>(dots, values);
  }
  if (both != both_end) {
    dot(both++, dots);
    add_some_sums<A>(dots, 2, values);
    values += 2;
  }
  const auto* tap = reinterpret_cast<const Tap<int32_t>*>(both);
  values = first.add(tap, tap + run.first, job.in, job.row_step, values);
  if constexpr (kTwo) {
    tap += run.first;
    second.add(tap, tap + run.second, job.in, job.row_step, values);
  }
}

// The same for kernels that share no taps.
template <class A, int kRows, int kColumns>
SUPERTICKETS_INLINE void dot_planes(const DotJob<A>& job, const Run& run, int64_t plane,
                                    WaitingDots<A>& waiting) {
  using Tile = TileVectors<A, kRows, kColumns>;
  constexpr int64_t kPlane = Tile::kCount * kLanes<A>;
  const A* grad = job.grad + plane * kPlane;
  const auto* tap = reinterpret_cast<const Tap<int32_t>*>(job.taps + run.taps);
  PlaneDots<A, Tile>(grad).add(tap, tap + run.first, job.in, job.row_step, waiting);
  if (run.second == 0) return;
  tap += run.first;
  PlaneDots<A, Tile>(grad + kPlane).add(tap, tap + run.second, job.in, job.row_step, waiting);
}

template <class A, int kRows, int kColumns>
void dot_tile(const DotJob<A>& job_in) {
  const DotJob<A> job = job_in;
  [[maybe_unused]] WaitingDots<A> waiting(job.values + (job.count > 0 ? job.runs[0].values : 0));
  for (int64_t i = 0; i < job.count; ++i) {
    fetch(job.prefetch, i, job.count);
    fetch(job.prefetch_grad, i, job.count);
    if constexpr (!kSharesTaps) {
      dot_planes<A, kRows, kColumns>(job, job.runs[i], 2 * i, waiting);
    } else if (2 * i + 1 < job.planes) {
      dot_pair<A, kRows, kColumns, true>(job, job.runs[i], 2 * i);
    } else {
      dot_pair<A, kRows, kColumns, false>(job, job.runs[i], 2 * i);
    }
  }
  if constexpr (!kSharesTaps) waiting.sum_up();
}

template <class A>
void dot(const DotJob<A>& job) {
  static constexpr auto kTable = tile_table<DotJob, A>(
      [](auto rows, auto columns) -> void (*)(const DotJob<A>&) {
        if constexpr (rows * columns <= kTileLines<A>) return &dot_tile<A, rows, columns>;
        return nullptr;
      },
      std::make_integer_sequence<int, kTileRows * kTileColumns>{});
  kTable.run[job.rows - 1][job.columns - 1](job);
}

}  // namespace supertickets::SUPERTICKETS_ISA
