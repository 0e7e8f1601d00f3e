// Both gradients of a convolution over lists of live pixels. Include only from kernel files.
#pragma once

#include "ntk_lanes.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {

using V = Vector<float>;
inline constexpr int kL = kLanes<float>;

// Bytes of the gradient's window that one pass over a block of rows reads again and again.
inline constexpr int64_t kWindowBytes = 20 << 10;

template <int kRows_, int kColumns_, int kSpacing_>
struct Taps {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kSpacing = kSpacing_;
  static constexpr int kCount = kRows * kColumns;
  // Rows of taps, and output channels, that the registers hold at once.
  static constexpr int kRowsAtOnce =
      kCount <= kAccumulators ? kRows
                              : (kAccumulators / kColumns > 0 ? kAccumulators / kColumns : 1);
  static constexpr int kFit = kCount <= kAccumulators ? kAccumulators / kCount : 1;
  static constexpr int kGroup = kFit < kLaneGroup ? kFit : static_cast<int>(kLaneGroup);
};

// A run of list entries and the plane of gradients that they meet.
struct ListRun {
  const float* plane;   // pixel 0, shift included
  int64_t pitch, next;  // floats to the next row and to the next channel
  const int32_t *from, *to;
  const float* value;
  int64_t count;
};

// sums[channel c][tap] += x G for tap rows kFirst .. kFirst + kTapRows of `kGroup` channels.
template <class T, int kFirst, int kTapRows, int kGroup>
SUPERTICKETS_INLINE void correlate_rows(const ListRun& run, float* sums, int64_t channel_step) {
  constexpr int kRow = T::kColumns, kSums = kTapRows * kRow;
  V sum[kGroup * kSums];
  unroll<kGroup * kSums>([&](auto i) SUPERTICKETS_LAMBDA_INLINE {
    sum[i] = load(sums + i / kSums * channel_step + (kFirst * kRow + i % kSums) * kL);
  });
  const int64_t row_step = run.pitch * T::kSpacing, next = run.next;
  const float* plane = run.plane - kFirst * row_step;
  for (int64_t e = 0; e < run.count; ++e) {
    const V x = splat(run.value[e]);
    const float* at = plane + static_cast<int64_t>(run.from[e]) * kL;
    unroll<kGroup * kTapRows>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
      const float* row = at + j / kTapRows * next - j % kTapRows * row_step;
      unroll<kRow>([&](auto t) SUPERTICKETS_LAMBDA_INLINE {
        V& s = sum[j * kRow + t];
        s += x * load(row - t * T::kSpacing * kL);
      });
    });
  }
  unroll<kGroup * kSums>([&](auto i) SUPERTICKETS_LAMBDA_INLINE {
    store(sums + i / kSums * channel_step + (kFirst * kRow + i % kSums) * kL, sum[i]);
  });
}

// out[pixel] += sum of weight G over tap rows kFirst .. kFirst + kTapRows of `kGroup` channels.
template <class T, int kFirst, int kTapRows, int kGroup>
SUPERTICKETS_INLINE void spread_rows(const ListRun& run, const float* weight, int64_t channel_step,
                                     float* out) {
  constexpr int kRow = T::kColumns, kWeights = kTapRows * kRow;
  V w[kGroup * kWeights];
  unroll<kGroup * kWeights>([&](auto i) SUPERTICKETS_LAMBDA_INLINE {
    w[i] = splat(weight[i / kWeights * channel_step + kFirst * kRow + i % kWeights]);
  });
  const int64_t row_step = run.pitch * T::kSpacing, next = run.next;
  const float* plane = run.plane - kFirst * row_step;
  for (int64_t e = 0; e < run.count; ++e) {
    const float* at = plane + static_cast<int64_t>(run.from[e]) * kL;
    float* to = out + static_cast<int64_t>(run.to[e]) * kL;
    V even = load(to), odd{};
    unroll<kGroup * kTapRows>([&](auto j) SUPERTICKETS_LAMBDA_INLINE {
      const float* row = at + j / kTapRows * next - j % kTapRows * row_step;
      unroll<kRow>([&](auto t) SUPERTICKETS_LAMBDA_INLINE {
        constexpr int i = decltype(j)::value * kRow + decltype(t)::value;
        V& s = i % 2 == 0 ? even : odd;
        s += w[i] * load(row - t * T::kSpacing * kL);
      });
    });
    store(to, even + odd);
  }
}

template <class T, int kGroup, int kFirst = 0>
void correlate_run(const ListRun& run, float* sums, int64_t channel_step) {
  if constexpr (kFirst < T::kRows) {
    constexpr int kNow = T::kRows - kFirst < T::kRowsAtOnce ? T::kRows - kFirst : T::kRowsAtOnce;
    correlate_rows<T, kFirst, kNow, kGroup>(run, sums, channel_step);
    correlate_run<T, kGroup, kFirst + kNow>(run, sums, channel_step);
  }
}

template <class T, int kGroup, int kFirst = 0>
void spread_run(const ListRun& run, const float* weight, int64_t channel_step, float* out) {
  if constexpr (kFirst < T::kRows) {
    constexpr int kNow = T::kRows - kFirst < T::kRowsAtOnce ? T::kRows - kFirst : T::kRowsAtOnce;
    spread_rows<T, kFirst, kNow, kGroup>(run, weight, channel_step, out);
    spread_run<T, kGroup, kFirst + kNow>(run, weight, channel_step, out);
  }
}

inline const float* pixel(const LaneField& field, int64_t image, int64_t channel) {
  return field.data + (image * field.image + channel * field.level.plane) * kL;
}

// c0 G - c1 - c2 value of channels first .. first + count of the step, as planes in scratch.
inline void form_planes(const LaneStep& step, int64_t image, int64_t first, int64_t count,
                        float* scratch) {
  const LaneLevel& level = step.gradient->level;
  std::memset(scratch, 0, static_cast<size_t>(level.lead * kL) * sizeof(float));
  for (int64_t c = 0; c < count; ++c) {
    const float* k = step.coefficients + (first + c) * kL;
    const V c0 = load(k), c1 = load(k + step.channels * kL), c2 = load(k + 2 * step.channels * kL);
    const float* g = pixel(*step.gradient, image, step.first + first + c) + level.lead * kL;
    const float* value =
        step.value + (image * step.channels + first + c) * level.height * level.width;
    float* to = scratch + (level.lead + c * level.plane) * kL;
    for (int64_t y = 0; y < level.height; ++y) {
      for (int64_t x = 0; x < level.width; ++x) {
        store(to + x * kL, c0 * load(g + x * kL) - c1 - c2 * splat(value[x]));
      }
      for (int64_t x = level.width; x < level.pitch; ++x) store(to + x * kL, V{});
      g += level.pitch * kL;
      to += level.pitch * kL;
      value += level.width;
    }
    std::memset(to, 0, static_cast<size_t>(level.border * level.pitch * kL) * sizeof(float));
  }
}

// Loops over blocks of rows and input channels around one group of output channels.
template <class Body>
SUPERTICKETS_INLINE void for_each_run(const LaneStep& step, int64_t image, int64_t channel,
                                      int64_t group, const float* planes, const Body& body) {
  const LaneLevel& level = step.gradient->level;
  const PixelList& list = *step.pixels;
  const int64_t row_bytes = level.pitch * group * kL * static_cast<int64_t>(sizeof(float));
  const int64_t most = kWindowBytes / row_bytes - (step.tap_rows - 1) * step.spacing;
  const int64_t blocks = most < 4 ? (list.rows + 3) / 4 : (list.rows + most - 1) / most;
  const int64_t begin = step.depthwise ? channel : 0;
  const int64_t end = step.depthwise ? channel + 1 : step.inputs;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t top = list.rows * b / blocks, bottom = list.rows * (b + 1) / blocks;
    for (int64_t in = begin; in < end; ++in) {
      const int32_t* rows = list.begin + (image * list.channels + in) * list.rows;
      const int64_t e = rows[top], count = rows[bottom] - e;
      if (count == 0) continue;
      body(in, ListRun{planes + step.shift * kL, level.pitch * kL, level.plane * kL, list.from + e,
                       list.to + e, list.value + e, count});
    }
  }
}

template <class T, int kGroup>
void correlate_group(const LaneStep& step, int64_t image, const LaneBlock& block, int64_t channel) {
  const int64_t inputs = step.depthwise ? 1 : step.inputs;
  float* sums = block.sums + (step.sums + channel * inputs * T::kCount) * kL;
  for_each_run(step, image, channel, kGroup, pixel(*step.gradient, image, step.first + channel),
               [&](int64_t in, const ListRun& run) SUPERTICKETS_LAMBDA_INLINE {
                 correlate_run<T, kGroup>(run, sums + (step.depthwise ? 0 : in) * T::kCount * kL,
                                          inputs * T::kCount * kL);
               });
}

template <class T, int kGroup>
void spread_group(const LaneStep& step, int64_t image, const LaneBlock& block, int64_t channel) {
  const int64_t inputs = step.depthwise ? 1 : step.inputs;
  const float* planes = pixel(*step.gradient, image, step.first + channel);
  if (step.coefficients != nullptr) {
    form_planes(step, image, channel, kGroup, block.scratch);
    planes = block.scratch;
  }
  const float* weight = step.weight + channel * inputs * T::kCount;
  for_each_run(step, image, channel, kGroup, planes,
               [&](int64_t in, const ListRun& run) SUPERTICKETS_LAMBDA_INLINE {
                 spread_run<T, kGroup>(run, weight + (step.depthwise ? 0 : in) * T::kCount,
                                       inputs * T::kCount,
                                       const_cast<float*>(pixel(*step.out, image, in)));
               });
}

// All output channels, as many at once as there are and as the registers hold.
template <class T, int kGroup = T::kGroup>
void convolve(const LaneStep& step, int64_t image, const LaneBlock& block, int64_t channel = 0) {
  const int64_t most = step.depthwise ? 1 : step.channels;
  for (; kGroup <= most && channel + kGroup <= step.channels; channel += kGroup) {
    if (step.kind == LaneStepKind::kCorrelate) {
      correlate_group<T, kGroup>(step, image, block, channel);
    } else {
      spread_group<T, kGroup>(step, image, block, channel);
    }
  }
  if constexpr (kGroup > 1) {
    if (channel < step.channels) convolve<T, kGroup - 1>(step, image, block, channel);
  }
}

using Convolve = void (*)(const LaneStep&, int64_t, const LaneBlock&);

// Null if there is none. Stride 2 splits 3 taps into 1 and 2, 5 taps into 2 and 3.
inline Convolve find_convolve(int64_t rows, int64_t columns, int64_t spacing) {
  switch (rows * 100 + columns * 10 + spacing) {
#define SUPERTICKETS_TAPS(r, c, s)                                           \
  case r * 100 + c * 10 + s:                                                 \
    return [](const LaneStep& step, int64_t image, const LaneBlock& block) { \
      convolve<Taps<r, c, s>>(step, image, block);                           \
    }
    SUPERTICKETS_TAPS(1, 1, 1);
    SUPERTICKETS_TAPS(1, 2, 1);
    SUPERTICKETS_TAPS(2, 1, 1);
    SUPERTICKETS_TAPS(2, 2, 1);
    SUPERTICKETS_TAPS(2, 3, 1);
    SUPERTICKETS_TAPS(3, 2, 1);
    SUPERTICKETS_TAPS(3, 3, 1);
    SUPERTICKETS_TAPS(3, 3, 2);
    SUPERTICKETS_TAPS(5, 5, 1);
    SUPERTICKETS_TAPS(5, 5, 2);
#undef SUPERTICKETS_TAPS
    default:
      return nullptr;
  }
}

}  // namespace supertickets::SUPERTICKETS_ISA
