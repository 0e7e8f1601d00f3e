// Filling the tile buffer, and writing finished sums. Include only from kernel files.
#pragma once

#include "half.h"
#include "masked_conv2d.h"
#include "masked_conv2d_run.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

#if defined(__AVX512F__)
// 16 halves at a time; the compiler does not find these instructions. The forms with a mask of all
// ones keep it from warning about its own headers.
inline constexpr __mmask16 kAll = 0xffff;

SUPERTICKETS_INLINE Vector<float> widen16(__m256i halves, Float16) {
  return _mm512_maskz_cvtph_ps(kAll, halves);
}
SUPERTICKETS_INLINE Vector<float> widen16(__m256i halves, BFloat16) {
  const __m512i low = _mm512_maskz_cvtepu16_epi32(kAll, halves);
  return reinterpret_cast<__m512>(_mm512_maskz_slli_epi32(kAll, low, 16));
}

SUPERTICKETS_INLINE __m256i narrow16(Vector<float> v, Float16) {
  return _mm512_maskz_cvtps_ph(kAll, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SUPERTICKETS_INLINE __m256i narrow16(Vector<float> v, BFloat16) {  // as Narrow<BFloat16>
  typedef uint32_t Bits __attribute__((vector_size(64)));
  const Bits bits = reinterpret_cast<Bits>(v);
  const Bits rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Bits quiet = bits >> 16 | 0x40u;
  const Bits is_nan = reinterpret_cast<Bits>((bits & 0x7fffffffu) > 0x7f800000u);
  const Bits chosen = (is_nan & quiet) | (~is_nan & rounded);
  return _mm512_maskz_cvtepi32_epi16(kAll, reinterpret_cast<__m512i>(chosen));
}
#endif

template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE Vector<A> load_wide(const S* from) {
  if constexpr (std::is_same_v<S, A>) {
    return load(from);
  } else {
#if defined(__AVX512F__)
    __m256i halves;
    std::memcpy(&halves, from, sizeof(halves));
    return widen16(halves, S{});
#else
    A wide[kLanes<A>];
    for (int i = 0; i < kLanes<A>; ++i) wide[i] = widen(from[i]);
    return load(wide);
#endif
  }
}

template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE void store_narrow(S* to, Vector<A> v) {
  if constexpr (std::is_same_v<S, A>) {
    store(to, v);
  } else {
#if defined(__AVX512F__)
    const __m256i halves = narrow16(v, S{});
    std::memcpy(to, &halves, sizeof(halves));
#else
    A wide[kLanes<A>];
    store(wide, v);
    for (int i = 0; i < kLanes<A>; ++i) to[i] = Narrow<S>::from(wide[i]);
#endif
  }
}

template <class A>
SUPERTICKETS_INLINE void clear_line(A* to) {
  unroll<kLineVectors<A>>(
      [&](auto v) SUPERTICKETS_LAMBDA_INLINE { store(to + v * kLanes<A>, Vector<A>{}); });
}

// Copies `count` lines that follow one another.
template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE void copy_lines(const S* from, int64_t count, A* to) {
  for (int64_t i = 0; i < count * kLineVectors<A>; ++i) {
    store(to + i * kLanes<A>, load_wide(from + i * kLanes<A>));
  }
}

template <class A>
SUPERTICKETS_INLINE void clear_lines(A* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) clear_line(to + i * kLine);
}

template <class S>
void fill_lanes(const FillJob& job_in) {
  using A = Accumulator<S>;
  const FillJob job = job_in;
  // Neighbouring slots that are inside and side by side are copied in one go.
  int64_t before = 0, inside = 0;
  while (before < job.slots_x && job.columns[before] == kOutside) ++before;
  while (before + inside < job.slots_x &&
         job.columns[before + inside] == job.columns[before] + inside * kLine) {
    ++inside;
  }
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const S* from = static_cast<const S*>(job.from) + channel * job.channel_step;
    A* to = static_cast<A*>(job.buffer) + channel * job.channel_pitch;
    for (int64_t y = 0; y < job.slots_y; ++y, to += job.slots_x * kLine) {
      const int64_t row = job.rows[y];
      if (row == kOutside) {
        clear_lines(to, job.slots_x);
        continue;
      }
      clear_lines(to, before);
      if (inside > 0) copy_lines(from + row + job.columns[before], inside, to + before * kLine);
      for (int64_t x = before + inside; x < job.slots_x; ++x) {
        const int64_t column = job.columns[x];
        if (column == kOutside) {
          clear_line(to + x * kLine);
        } else {
          copy_lines(from + row + column, 1, to + x * kLine);
        }
      }
    }
  }
}

#if defined(__AVX2__)
// Bit i moves to bit 2 i, of eight.
SUPERTICKETS_INLINE uint32_t spread(uint32_t bits) {
  bits = (bits | bits << 4) & 0x0f0f;
  bits = (bits | bits << 2) & 0x3333;
  return (bits | bits << 1) & 0x5555;
}
#endif

// Where the part of a line of pixels lies that one row gives: the element of lane 0 (of which it
// may have none), and the lanes that it has.
template <class S>
struct LinePart {
  const S* from;
  uint32_t mask;

  SUPERTICKETS_INLINE LinePart(const FillJob& job, const S* channel, int64_t x, int64_t y,
                               int64_t part) {
    const int64_t at = part * job.slots_y + y, first = part * (kLine / job.fold);
    const int64_t row = job.rows[at];
    from = channel + (row == kOutside ? 0 : row) + job.columns[x] - first * job.column_step;
    mask = row == kOutside ? 0 : (job.column_mask[x] & job.row_mask[at]) << first;
  }
};

#if defined(__AVX512F__)
// The lanes of `mask` are loaded, the others stay; neighbours are `step` (1 or 2) elements apart.
SUPERTICKETS_INLINE __m512 merge_line(__m512 line, const float* from, int64_t step, uint32_t mask) {
  const __mmask16 keep = static_cast<__mmask16>(mask);
  if (step == 1) return _mm512_mask_loadu_ps(line, keep, from);
  const auto keep_low = static_cast<__mmask16>(spread(mask & 0xff));
  const auto keep_high = static_cast<__mmask16>(spread(mask >> 8));
  const __m512 low = _mm512_maskz_loadu_ps(keep_low, from);
  const __m512 high = _mm512_maskz_loadu_ps(keep_high, from + 16);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return _mm512_mask_mov_ps(line, keep, _mm512_permutex2var_ps(low, even, high));
}
#elif defined(__AVX2__)
// The elements of `mask` (8 bits), and zeros.
SUPERTICKETS_INLINE Vector<float> load_kept(const float* from, uint32_t mask) {
  const Lanes<float> bit = {1, 2, 4, 8, 16, 32, 64, 128};
  const Lanes<float> keep = (static_cast<int32_t>(mask) & bit) == bit;
  return _mm256_maskload_ps(from, reinterpret_cast<__m256i>(keep));
}

// The same of neighbours that are `step` (1 or 2) elements apart.
SUPERTICKETS_INLINE Vector<float> load_kept(const float* from, int64_t step, uint32_t mask) {
  if (step == 1) return load_kept(from, mask);
  const Vector<float> low = load_kept(from, spread(mask & 0xf));
  const Vector<float> high = load_kept(from + 8, spread(mask >> 4));
  const __m256d mixed = reinterpret_cast<__m256d>(_mm256_shuffle_ps(low, high, 0x88));
  return reinterpret_cast<__m256>(_mm256_permute4x64_pd(mixed, 0xd8));
}
#endif

template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE void fill_line(const FillJob& job, const S* channel, int64_t x, int64_t y,
                                   A* to) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    if (job.column_step <= 2) {
      __m512 line = _mm512_setzero_ps();
      for (int64_t part = 0; part < job.fold; ++part) {
        const LinePart<S> source(job, channel, x, y, part);
        line = merge_line(line, source.from, job.column_step, source.mask);
      }
      return _mm512_storeu_ps(to, line);
    }
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<S, float>) {
    if (job.column_step <= 2) {
      Vector<float> low{}, high{};
      for (int64_t part = 0; part < job.fold; ++part) {  // no two parts have the same lanes
        const LinePart<S> source(job, channel, x, y, part);
        if ((source.mask & 0xff) != 0) {
          low += load_kept(source.from, job.column_step, source.mask & 0xff);
        }
        if (source.mask >> 8 != 0) {
          high += load_kept(source.from + 8 * job.column_step, job.column_step, source.mask >> 8);
        }
      }
      store(to, low);
      return store(to + 8, high);
    }
  }
#endif
  clear_line(to);
  for (int64_t part = 0; part < job.fold; ++part) {
    const LinePart<S> source(job, channel, x, y, part);
    for (uint32_t rest = source.mask; rest != 0; rest &= rest - 1) {
      const int i = __builtin_ctz(rest);
      to[i] = widen(source.from[i * job.column_step]);
    }
  }
}

#if defined(__AVX2__)
// The common case: a line is 16 neighbours of one row.
void fill_neighbours(const FillJob& job) {
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const float* from = static_cast<const float*>(job.from) + channel * job.channel_step;
    float* to = static_cast<float*>(job.buffer) + channel * job.channel_pitch;
    for (int64_t x = 0; x < job.slots_x; ++x) {
      const float* column = from + job.columns[x];
      const uint32_t mask = job.column_mask[x];
      for (int64_t y = 0; y < job.slots_y; ++y, to += kLine) {
        const int64_t row = job.rows[y];
        const bool inside = row != kOutside;
        const uint32_t keep = inside ? mask & job.row_mask[y] : 0;
        const float* line = column + (inside ? row : 0);
#if defined(__AVX512F__)
        _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(static_cast<__mmask16>(keep), line));
#else
        store(to, load_kept(line, keep & 0xff));
        store(to + 8, load_kept(line + 8, keep >> 8));
#endif
      }
    }
  }
}
#endif

template <class S>
void fill_pixels(const FillJob& job_in) {
  using A = Accumulator<S>;
  const FillJob job = job_in;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<S, float>) {
    if (job.fold == 1 && job.column_step == 1) return fill_neighbours(job);
  }
#endif
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const S* from = static_cast<const S*>(job.from) + channel * job.channel_step;
    A* to = static_cast<A*>(job.buffer) + channel * job.channel_pitch;
    for (int64_t x = 0; x < job.slots_x; ++x) {
      for (int64_t y = 0; y < job.slots_y; ++y, to += kLine) fill_line<S>(job, from, x, y, to);
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
        const S* residual = job.residual == nullptr ? nullptr
                                                    : static_cast<const S*>(job.residual) + at +
                                                          column * job.column_step;
        unroll<kLineVectors<A>>([&](auto v) SUPERTICKETS_LAMBDA_INLINE {
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
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<S, float>) {
    if (step == 1) {  // whole halves; what is left is stored one by one
      for (int first = 0; first < 16; first += 8) {
        if ((mask >> first & 0xff) != 0xff) continue;
        mask &= ~(uint32_t{0xff} << first);
        Vector<float> v = load(sums + first);
        if (residual != nullptr) v += load(residual + first);
        store(to + first, relu ? rectify<float>(v) : v);
      }
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
