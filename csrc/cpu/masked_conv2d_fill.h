// Filling the tile buffer, and writing finished sums. Include only from kernel files.
#pragma once

#include "half.h"
#include "masked_conv2d.h"
#include "masked_conv2d_run.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE Vector<A> load_wide(const S* from) {
  if constexpr (std::is_same_v<S, A>) {
    return load(from);
  } else {
    A wide[kLanes<A>];
    for (int i = 0; i < kLanes<A>; ++i) wide[i] = widen(from[i]);
    return load(wide);
  }
}

template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE void store_narrow(S* to, Vector<A> v) {
  if constexpr (std::is_same_v<S, A>) {
    store(to, v);
  } else {
    A wide[kLanes<A>];
    store(wide, v);
    for (int i = 0; i < kLanes<A>; ++i) to[i] = Narrow<S>::from(wide[i]);
  }
}

template <class A>
SUPERTICKETS_INLINE void clear_line(A* to) {
  unroll<kLineVectors<A>>([&](auto v) { store(to + v * kLanes<A>, Vector<A>{}); });
}

template <class S>
void fill_lanes(const FillJob& job_in) {
  using A = Accumulator<S>;
  const FillJob job = job_in;
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const S* from = static_cast<const S*>(job.from) + channel * job.channel_step;
    A* to = static_cast<A*>(job.buffer) + channel * job.channel_pitch;
    for (int64_t y = 0; y < job.slots_y; ++y) {
      const int64_t row = job.rows[y];
      for (int64_t x = 0; x < job.slots_x; ++x, to += kLine) {
        const int64_t column = job.columns[x];
        if (row == kOutside || column == kOutside) {
          clear_line(to);
          continue;
        }
        const S* line = from + row + column;
        unroll<kLineVectors<A>>(
            [&](auto v) { store(to + v * kLanes<A>, load_wide(line + v * kLanes<A>)); });
      }
    }
  }
}

#if defined(__AVX512F__)
// Bit i moves to bit 2 i, of eight.
SUPERTICKETS_INLINE __mmask16 spread(uint32_t bits) {
  bits = (bits | bits << 4) & 0x0f0f;
  bits = (bits | bits << 2) & 0x3333;
  return static_cast<__mmask16>((bits | bits << 1) & 0x5555);
}
#endif

// Pixels of one line, those of `mask`; bit i is the element at from + i * step. If `first`, the
// others become zero, else they stay.
template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE void gather_line(const S* from, int64_t step, uint32_t mask, bool first,
                                     A* to) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    if (step <= 2) {
      const __mmask16 keep = static_cast<__mmask16>(mask);
      __m512 v;
      if (step == 1) {
        v = _mm512_maskz_loadu_ps(keep, from);
      } else {  // every second one of 32 neighbours
        const __m512 low = _mm512_maskz_loadu_ps(spread(mask & 0xff), from);
        const __m512 high = _mm512_maskz_loadu_ps(spread(mask >> 8), from + 16);
        const __m512i even =
            _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        v = _mm512_permutex2var_ps(low, even, high);
      }
      if (first) return _mm512_storeu_ps(to, v);
      return _mm512_mask_storeu_ps(to, keep, v);
    }
  }
#endif
  if (first) clear_line(to);
  for (; mask != 0; mask &= mask - 1) {
    const int i = __builtin_ctz(mask);
    to[i] = widen(from[i * step]);
  }
}

template <class S>
void fill_pixels(const FillJob& job_in) {
  using A = Accumulator<S>;
  const FillJob job = job_in;
  const int64_t segment = kLine / job.fold;
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const S* from = static_cast<const S*>(job.from) + channel * job.channel_step;
    A* to = static_cast<A*>(job.buffer) + channel * job.channel_pitch;
    for (int64_t x = 0; x < job.slots_x; ++x) {
      for (int64_t y = 0; y < job.slots_y; ++y, to += kLine) {
        for (int64_t part = 0; part < job.fold; ++part) {
          const int64_t at = part * job.slots_y + y;
          const int64_t row = job.rows[at];
          const bool inside = row != kOutside;
          const uint32_t mask = inside ? job.column_mask[x] & job.row_mask[at] : 0;
          const int64_t first = job.columns[x] - part * segment * job.column_step;
          gather_line<S>(from + (inside ? row : 0) + first, job.column_step,
                         mask << (part * segment), part == 0, to);
        }
      }
    }
  }
}

template <class A>
SUPERTICKETS_INLINE A finish(A value, bool relu) {
  return relu && value < 0 ? A{0} : value;
}

template <class S>
void emit_lanes(const EmitJob& job_in) {
  using A = Accumulator<S>;
  const EmitJob job = job_in;
  const A* sums = static_cast<const A*>(job.sums);
  for (int64_t plane = 0; plane < job.planes; ++plane) {
    for (int64_t row = 0; row < job.rows; ++row) {
      const int64_t at = plane * job.plane_step + row * job.row_step;
      for (int64_t column = 0; column < job.columns; ++column, sums += kLine) {
        S* to = static_cast<S*>(job.to) + at + column * job.column_step;
        const S* residual = job.residual == nullptr
                                ? nullptr
                                : static_cast<const S*>(job.residual) + at +
                                      column * job.column_step;
        unroll<kLineVectors<A>>([&](auto v) {
          Vector<A> value = load(sums + v * kLanes<A>);
          if (residual != nullptr) value += load_wide(residual + v * kLanes<A>);
          if (job.relu) value = rectify<A>(value);
          store_narrow(to + v * kLanes<A>, value);
        });
      }
    }
  }
}

// The counterpart of gather_line.
template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE void scatter_line(const A* sums, const S* residual, bool relu, S* to,
                                      int64_t step, uint32_t mask) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    if (step == 1) {
      const __mmask16 keep = static_cast<__mmask16>(mask);
      __m512 v = _mm512_loadu_ps(sums);
      if (residual != nullptr) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(keep, residual));
      if (relu) v = rectify<float>(v);
      _mm512_mask_storeu_ps(to, keep, v);
      return;
    }
  }
#endif
  for (; mask != 0; mask &= mask - 1) {
    const int i = __builtin_ctz(mask);
    A value = sums[i];
    if (residual != nullptr) value += widen(residual[i * step]);
    to[i * step] = Narrow<S>::from(finish(value, relu));
  }
}

template <class S>
void emit_pixels(const EmitJob& job_in) {
  using A = Accumulator<S>;
  const EmitJob job = job_in;
  const int64_t segment = kLine / job.fold;
  const A* sums = static_cast<const A*>(job.sums);
  for (int64_t plane = 0; plane < job.planes; ++plane) {
    for (int64_t row = 0; row < job.rows; ++row, sums += kLine) {
      for (int64_t part = 0; part < job.fold; ++part) {
        const uint32_t mask = job.row_mask[part * job.rows + row] << (part * segment);
        const int64_t at = plane * job.plane_step + row * job.row_step + part * job.fold_step -
                           part * segment * job.column_step;
        scatter_line<S>(
            sums, job.residual == nullptr ? nullptr : static_cast<const S*>(job.residual) + at,
            job.relu, static_cast<S*>(job.to) + at, job.column_step, mask);
      }
    }
  }
}

}  // namespace supertickets::SUPERTICKETS_ISA
