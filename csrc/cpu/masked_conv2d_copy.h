// Packing dense tensors into planes and back. Include only from kernel files (see simd.h).
#pragma once

#include "half.h"
#include "masked_conv2d.h"
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
    unroll<kHalf>([&](auto i) {
      next[2 * i] = interleave<A, 0>(rows[i], rows[i + kHalf], kSequence);
      next[2 * i + 1] = interleave<A, 1>(rows[i], rows[i + kHalf], kSequence);
    });
    unroll<kLanes<A>>([&](auto i) { rows[i] = next[i]; });
    transpose<A, kRounds / 2>(rows);
  }
}

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

template <bool kToPlane, class S, class A>
SUPERTICKETS_INLINE void copy_one(S* dense, A* plane) {
  if constexpr (kToPlane) {
    *plane = widen(*dense);
  } else {
    *dense = Narrow<S>::from(*plane);
  }
}

// Moves element (i, j), which lies at dense + i + j * step and at line(i) + j, for all i < count_i
// and j < count_j; whole squares of vectors by transposing them in registers.
template <bool kToPlane, class S, class Line>
SUPERTICKETS_INLINE void copy_transposed(S* dense, int64_t step, int64_t count_i, int64_t count_j,
                                         const Line& line) {
  using A = Accumulator<S>;
  constexpr int64_t kSide = kLanes<A>;
  const int64_t whole_j = count_j / kSide * kSide;
  int64_t i = 0;
  for (; i + kSide <= count_i; i += kSide) {
    A* lines[kSide];
    for (int64_t k = 0; k < kSide; ++k) lines[k] = line(i + k);
    for (int64_t j = 0; j < whole_j; j += kSide) {
      S* from = dense + i + j * step;
      Vector<A> block[kSide];
      unroll<kSide>(
          [&](auto k) { block[k] = kToPlane ? load_wide(from + k * step) : load(lines[k] + j); });
      transpose<A, kSide>(block);
      unroll<kSide>([&](auto k) {
        if constexpr (kToPlane) {
          store(lines[k] + j, block[k]);
        } else {
          store_narrow(from + k * step, block[k]);
        }
      });
    }
    for (int64_t j = whole_j; j < count_j; ++j) {
      for (int64_t k = 0; k < kSide; ++k) {
        copy_one<kToPlane>(dense + i + k + j * step, lines[k] + j);
      }
    }
  }
  for (; i < count_i; ++i) {
    A* to = line(i);
    for (int64_t j = 0; j < count_j; ++j) copy_one<kToPlane>(dense + i + j * step, to + j);
  }
}

// Where the images and channels of a job lie.
template <class S>
struct CopyView {
  using A = Accumulator<S>;
  const CopyJob& job;
  S* dense;        // first image and channel of the job
  A* planes;       // first plane of the job
  int64_t images;  // of this group

  explicit CopyView(const CopyJob& j)
      : job(j),
        dense(static_cast<S*>(j.dense.data) + j.first * j.dense.stride_batch +
              j.channel * j.dense.stride_channel),
        planes(static_cast<A*>(j.buffer) +
               j.channel * j.planes->y.phases * j.planes->x.phases * j.planes->plane_pitch),
        images(j.dense.batch - j.first < j.planes->lanes ? j.dense.batch - j.first
                                                         : j.planes->lanes) {}

  // The line of a dense position, where the planes have one phase and reach to the last position.
  A* line(int64_t channel, int64_t row, int64_t column) const {
    const Planes& p = *job.planes;
    return planes + channel * p.plane_pitch + (row + p.y.pad) * p.row_pitch +
           (column + p.x.pad) * p.lanes;
  }
};

SUPERTICKETS_INLINE bool is_whole(const Axis& axis) {
  return axis.stride == 1 && axis.extent - axis.pad >= axis.size;
}

// Zeros around the dense positions.
template <class S>
void clear_halo(const CopyView<S>& view) {
  using A = Accumulator<S>;
  const Planes& p = *view.job.planes;
  const int64_t rows = view.job.dense.height;
  const int64_t columns = view.job.dense.width;
  const auto clear = [](A* begin, A* end) { std::memset(begin, 0, (end - begin) * sizeof(A)); };
  for (int64_t c = 0; c < view.job.channels; ++c) {
    A* plane = view.planes + c * p.plane_pitch;
    A* done = plane;
    for (int64_t row = 0; row < rows; ++row) {
      A* begin = view.line(c, row, 0);
      clear(done, begin);
      done = begin + columns * p.lanes;
    }
    clear(done, plane + p.plane_pitch);
  }
}

// One phase, all positions: every element moves, in transposed squares where two axes change over.
template <class S, bool kToPlane>
void copy_whole(const CopyView<S>& view) {
  const Strided& d = view.job.dense;
  const bool lanes = view.job.planes->lanes > 1;
  if constexpr (kToPlane) {
    clear_halo(view);
    if (lanes && view.images < kLine) {  // lanes without an image
      const Planes& p = *view.job.planes;
      std::memset(view.planes, 0, view.job.channels * p.plane_pitch * sizeof(*view.planes));
    }
  }
  if (d.stride_channel == 1 && view.job.channels > 1) {
    for (int64_t row = 0; row < d.height; ++row) {
      S* dense = view.dense + row * d.stride_height;
      const auto pixels = [&](int64_t column, int64_t step, int64_t count) {
        copy_transposed<kToPlane>(dense + column * d.stride_width, step, view.job.channels, count,
                                  [&](int64_t c) { return view.line(c, row, column); });
      };
      if (!lanes) {
        pixels(0, d.stride_width, d.width);
        continue;
      }
      for (int64_t column = 0; column < d.width; ++column) {
        pixels(column, d.stride_batch, view.images);
      }
    }
    return;
  }
  const bool map_is_one_run = d.stride_width == 1 && d.stride_height == d.width;
  for (int64_t c = 0; c < view.job.channels; ++c) {
    S* dense = view.dense + c * d.stride_channel;
    if (map_is_one_run && lanes) {
      copy_transposed<kToPlane>(dense, d.stride_batch, d.height * d.width, view.images,
                                [&](int64_t i) { return view.line(c, i / d.width, i % d.width); });
      continue;
    }
    for (int64_t row = 0; row < d.height; ++row) {
      S* from = dense + row * d.stride_height;
      auto* to = view.line(c, row, 0);
      for (int64_t n = 0; n < view.images; ++n) {
        for (int64_t i = 0; i < d.width; ++i) {
          copy_one<kToPlane>(from + i * d.stride_width + n * d.stride_batch,
                             to + i * view.job.planes->lanes + n);
        }
      }
    }
  }
}

// Calls body(dense position, plane row) for the positions of a plane with this residue.
template <class Body>
SUPERTICKETS_INLINE void for_each_position(const Axis& axis, int64_t residue, const Body& body) {
  int64_t row = axis.pad > residue ? (axis.pad - residue + axis.stride - 1) / axis.stride : 0;
  for (int64_t p = row * axis.stride + residue - axis.pad; p < axis.size && row < axis.extent;
       p += axis.stride, ++row) {
    body(p, row);
  }
}

// Any stride: phase by phase. Channels that lie side by side move together; otherwise it goes image
// by image, because images lie a power of two apart as a rule and would fight for the same cache
// sets.
template <class S, bool kToPlane>
void copy_phases(const CopyView<S>& view) {
  const Planes& p = *view.job.planes;
  const Strided& d = view.job.dense;
  const int64_t phases = p.y.phases * p.x.phases;
  const bool channels_last = d.stride_channel == 1 && view.job.channels > 1;
  if constexpr (kToPlane) {
    std::memset(view.planes, 0, view.job.channels * phases * p.plane_pitch * sizeof(*view.planes));
  }
  for (int64_t phase = 0; phase < phases; ++phase) {
    const int64_t residue_y = view.job.residue_y[phase / p.x.phases];
    const int64_t residue_x = view.job.residue_x[phase % p.x.phases];
    const auto plane = [&](int64_t c) {
      return view.planes + (c * phases + phase) * p.plane_pitch;
    };
    for_each_position(p.y, residue_y, [&](int64_t y, int64_t row) {
      S* dense = view.dense + y * d.stride_height;
      if (channels_last) {
        for_each_position(p.x, residue_x, [&](int64_t x, int64_t column) {
          const int64_t at = row * p.row_pitch + column * p.lanes;
          copy_transposed<kToPlane>(dense + x * d.stride_width, d.stride_batch, view.job.channels,
                                    view.images, [&](int64_t c) { return plane(c) + at; });
        });
        return;
      }
      for (int64_t c = 0; c < view.job.channels; ++c) {
        for (int64_t n = 0; n < view.images; ++n) {
          S* from = dense + c * d.stride_channel + n * d.stride_batch;
          auto* to = plane(c) + row * p.row_pitch + n;
          for_each_position(p.x, residue_x, [&](int64_t x, int64_t column) {
            copy_one<kToPlane>(from + x * d.stride_width, to + column * p.lanes);
          });
        }
      }
    });
  }
}

template <class S, bool kToPlane>
void copy(const CopyJob& job) {
  const CopyView<S> view(job);
  if (is_whole(job.planes->y) && is_whole(job.planes->x)) return copy_whole<S, kToPlane>(view);
  copy_phases<S, kToPlane>(view);
}

}  // namespace supertickets::SUPERTICKETS_ISA
