// Tiles straight from and to images whose channels lie side by side (channels_last): the change
// into lanes happens while the tile buffer is filled and while sums are written. Include only from
// kernel files.
#pragma once

#include "masked_conv2d_fill.h"
#include "masked_conv2d_lanes.h"

namespace supertickets::SUPERTICKETS_ISA {

// The first `count` channels, and zeros.
template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE Vector<A> load_some(const S* from, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
  }
#endif
  A some[kLanes<A>] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = widen(from[i]);
  return load(some);
}

// One pixel of `images` images becomes one line of each channel; absent images become zeros.
template <class S, class A = Accumulator<S>>
SUPERTICKETS_INLINE void fill_pixel(const S* from, int64_t image_step, int64_t images,
                                    int64_t channels, A* to, int64_t channel_pitch) {
  constexpr int64_t kSide = kLanes<A>;
  for (int64_t channel = 0; channel < channels; channel += kSide) {
    const int64_t some = channels - channel;  // the last square may be narrower
    for (int64_t first = 0; first < kLine; first += kSide) {
      Vector<A> block[kSide];
      unroll<kSide>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
        const S* at = from + (first + k) * image_step + channel;
        block[k] = first + k >= images ? Vector<A>{}
                   : some >= kSide     ? load_wide(at)
                                       : load_some(at, some);
      });
      transpose<A, kSide>(block);
      unroll<kSide>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
        if (k < some) store(to + (channel + k) * channel_pitch + first, block[k]);
      });
    }
  }
}

template <class S>
void fill_images(const FillJob& job_in) {
  using A = Accumulator<S>;
  const FillJob job = job_in;
  const S* from = static_cast<const S*>(job.from);
  A* to = static_cast<A*>(job.buffer);
  for (int64_t y = 0; y < job.slots_y; ++y) {
    for (int64_t x = 0; x < job.slots_x; ++x, to += kLine) {
      if (job.rows[y] == kOutside || job.columns[x] == kOutside) {
        for (int64_t c = 0; c < job.channels; ++c) clear_line(to + c * job.channel_pitch);
        continue;
      }
      fill_pixel<S>(from + job.rows[y] + job.columns[x], job.image_step, job.images, job.channels,
                    to, job.channel_pitch);
    }
  }
}

// What is added to a value and done to it on its way out.
template <class S>
struct Ending {
  const S* residual;
  bool relu;
  bool stream;

  using A = Accumulator<S>;

  SUPERTICKETS_INLINE void put(Vector<A> value, int64_t at, S* to) const {
    if (residual != nullptr) value += load_wide(residual + at);
    if (relu) value = rectify<A>(value);
    if constexpr (std::is_same_v<S, A>) {
      if (stream && reinterpret_cast<uintptr_t>(to + at) % kVectorBytes == 0) {
        return supertickets::SUPERTICKETS_ISA::stream<A>(to + at, value);
      }
    }
    store_narrow(to + at, value);
  }

  SUPERTICKETS_INLINE void put_one(A value, int64_t at, S* to) const {
    if (residual != nullptr) value += widen(residual[at]);
    to[at] = Narrow<S>::from(finish(value, relu));
  }
};

template <class S>
void emit_images(const EmitJob& job_in) {
  using A = Accumulator<S>;
  constexpr int64_t kSide = kLanes<A>;
  const EmitJob job = job_in;
  const A* sums = static_cast<const A*>(job.sums);
  const int64_t lines = job.rows * job.columns;
  S* to = static_cast<S*>(job.to);
  const Ending<S> ending{static_cast<const S*>(job.residual), job.relu, job.stream};
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t pixel = line / job.columns * job.row_step + line % job.columns * job.column_step;
    int64_t plane = 0;
    for (; plane + kSide <= job.planes; plane += kSide) {
      for (int64_t first = 0; first < kLine; first += kSide) {
        Vector<A> block[kSide];
        unroll<kSide>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
          block[k] = load(sums + ((plane + k) * lines + line) * kLine + first);
        });
        transpose<A, kSide>(block);
        unroll<kSide>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
          if (first + k < job.images) {
            ending.put(block[k], (first + k) * job.image_step + pixel + plane, to);
          }
        });
      }
    }
    for (; plane < job.planes; ++plane) {
      const A* values = sums + (plane * lines + line) * kLine;
      for (int64_t n = 0; n < job.images; ++n) {
        ending.put_one(values[n], n * job.image_step + pixel + plane, to);
      }
    }
  }
  if (job.stream) stream_fence();
}

}  // namespace supertickets::SUPERTICKETS_ISA
