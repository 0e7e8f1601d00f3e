// Moving tensors into lanes and back. Include only from kernel files.
#pragma once

#include "half.h"
#include "masked_conv2d.h"
#include "masked_conv2d_fill.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

// a0 b0 a1 b1 ..., from the first lane (kHalf 0) or from the middle on (kHalf 1).
template <class A, int kHalf, int... I>
SUPERTICKETS_INLINE Vector<A> interleave(Vector<A> a, Vector<A> b,
                                         std::integer_sequence<int, I...>) {
  constexpr int kFirst = kHalf * kLanes<A> / 2;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (kFirst + I / 2 + I % 2 * kLanes<A>)...);
#else
  return __builtin_shuffle(a, b, Lanes<A>{(kFirst + I / 2 + I % 2 * kLanes<A>)...});
#endif
}

// One round rotates the bits of (row, lane) by one place; after log2 rounds they have changed over.
template <class A, int kRounds>
SUPERTICKETS_INLINE void transpose(Vector<A>* rows) {
  if constexpr (kRounds > 1) {
    constexpr auto kSequence = std::make_integer_sequence<int, kLanes<A>>{};
    constexpr int kHalf = kLanes<A> / 2;
    Vector<A> next[kLanes<A>];
    unroll<kHalf>([&](auto i) SUPERTICKETS_LAMBDA_INLINE {
      next[2 * i] = interleave<A, 0>(rows[i], rows[i + kHalf], kSequence);
      next[2 * i + 1] = interleave<A, 1>(rows[i], rows[i + kHalf], kSequence);
    });
    unroll<kLanes<A>>([&](auto i) SUPERTICKETS_LAMBDA_INLINE { rows[i] = next[i]; });
    transpose<A, kRounds / 2>(rows);
  }
}

// Moves element (i, image), which lies at dense + i + image * step and at line(i) + image, for all
// i < count; squares of vectors are transposed in registers. Lanes of absent images become zero.
template <bool kToLanes, class S, class Line>
SUPERTICKETS_INLINE void move_lines(S* dense, int64_t step, int64_t count, int64_t images,
                                    const Line& line) {
  using A = Accumulator<S>;
  constexpr int64_t kSide = kLanes<A>;
  int64_t i = 0;
  for (; i + kSide <= count; i += kSide) {
    S* lines[kSide];
    for (int64_t k = 0; k < kSide; ++k) lines[k] = line(i + k);
    for (int64_t first = 0; first < kLine; first += kSide) {
      S* from = dense + i + first * step;
      Vector<A> block[kSide];
      unroll<kSide>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
        if constexpr (kToLanes) {
          block[k] = first + k < images ? load_wide(from + k * step) : Vector<A>{};
        } else {
          block[k] = load_wide(lines[k] + first);
        }
      });
      transpose<A, kSide>(block);
      unroll<kSide>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
        if constexpr (kToLanes) {
          store_narrow(lines[k] + first, block[k]);
        } else if (first + k < images) {
          store_narrow(from + k * step, block[k]);
        }
      });
    }
  }
  for (; i < count; ++i) {
    S* lanes = line(i);
    for (int64_t n = 0; n < images; ++n) {
      (kToLanes ? lanes[n] : dense[i + n * step]) = kToLanes ? dense[i + n * step] : lanes[n];
    }
    if (kToLanes) std::memset(lanes + images, 0, (kLine - images) * sizeof(S));
  }
}

// The channels of a job, of one group of images.
template <class S, bool kToLanes>
void move_lanes(const LanesJob& job) {
  const Strided& d = job.dense;
  const int64_t rest = d.batch - job.group * kLine, images = rest < kLine ? rest : kLine;
  const int64_t pixels = d.height * d.width;
  S* dense =
      static_cast<S*>(d.data) + job.group * kLine * d.stride_batch + job.channel * d.stride_channel;
  S* lanes = static_cast<S*>(job.lanes) + (job.group * d.channels + job.channel) * pixels * kLine;
  if (d.stride_channel == 1 && job.channels > 1) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      S* at = dense + pixel / d.width * d.stride_height + pixel % d.width * d.stride_width;
      move_lines<kToLanes>(at, d.stride_batch, job.channels, images,
                           [&](int64_t c) { return lanes + (c * pixels + pixel) * kLine; });
    }
    return;
  }
  const bool one_run = d.stride_width == 1 && d.stride_height == d.width;
  for (int64_t c = 0; c < job.channels; ++c) {
    const auto run = [&](S* from, int64_t first, int64_t count) SUPERTICKETS_LAMBDA_INLINE {
      move_lines<kToLanes>(from + c * d.stride_channel, d.stride_batch, count, images,
                           [&](int64_t i) { return lanes + (c * pixels + first + i) * kLine; });
    };
    if (one_run) {
      run(dense, 0, pixels);
      continue;
    }
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      run(dense + pixel / d.width * d.stride_height + pixel % d.width * d.stride_width, pixel, 1);
    }
  }
}

}  // namespace supertickets::SUPERTICKETS_ISA
