// The steps of a sweep on one image, and the Gram matrix; compiled once per instruction set.
#include "ntk_lanes_conv.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

// Calls body(channel, row, first float of the row of G, first float of the row of out or null).
template <class Body>
SUPERTICKETS_INLINE void for_each_row(const LaneStep& step, int64_t image, const Body& body) {
  const LaneLevel& level = step.gradient->level;
  for (int64_t c = 0; c < step.channels; ++c) {
    const float* g = pixel(*step.gradient, image, step.first + c) + level.lead * kL;
    float* out = nullptr;
    if (step.out != nullptr) {
      out = const_cast<float*>(pixel(*step.out, image, c)) + step.out->level.lead * kL;
    }
    for (int64_t y = 0; y < level.height; ++y) {
      body(c, y, g, out);
      g += level.pitch * kL;
      if (out != nullptr) out += step.out->level.pitch * kL;
    }
  }
}

const float* value_row(const LaneStep& step, int64_t image, int64_t channel, int64_t y) {
  const LaneLevel& level = step.gradient->level;
  return step.value + ((image * step.channels + channel) * level.height + y) * level.width;
}

void start(const LaneStep& step, int64_t image, const LaneBlock& block) {
  const int64_t lane = image - block.first_cotangent;
  if (lane < 0 || lane >= block.cotangents) return;
  const LaneLevel& level = step.out->level;
  for (int64_t c = 0; c < step.out->channels; ++c) {
    float* out = const_cast<float*>(pixel(*step.out, image, c)) + level.lead * kL + lane;
    for (int64_t y = 0; y < level.height; ++y) {
      for (int64_t x = 0; x < level.width; ++x) out[(y * level.pitch + x) * kL] = step.weight[c];
    }
  }
}

void sum(const LaneStep& step, int64_t image, const LaneBlock& block) {
  const int64_t width = step.gradient->level.width;
  for_each_row(step, image, [&](int64_t c, int64_t, const float* g, float*) {
    float* sums = block.sums + (step.sums + c) * kL;
    V even = load(sums), odd{};
    int64_t x = 0;
    for (; x + 1 < width; x += 2) {
      even += load(g + x * kL);
      odd += load(g + (x + 1) * kL);
    }
    if (x < width) even += load(g + x * kL);
    store(sums, even + odd);
  });
}

void moment(const LaneStep& step, int64_t image, const LaneBlock& block) {
  const int64_t width = step.gradient->level.width;
  for_each_row(step, image, [&](int64_t c, int64_t y, const float* g, float*) {
    const float* value = value_row(step, image, c, y);
    const float mean = step.mean[c];
    float* sums = block.sums + (step.sums + c) * kL;
    V even = load(sums), odd{};
    int64_t x = 0;
    for (; x + 1 < width; x += 2) {
      even += load(g + x * kL) * splat(value[x] - mean);
      odd += load(g + (x + 1) * kL) * splat(value[x + 1] - mean);
    }
    if (x < width) even += load(g + x * kL) * splat(value[x] - mean);
    store(sums, even + odd);
  });
}

void add(const LaneStep& step, int64_t image) {
  const int64_t width = step.gradient->level.width;
  const V scale = splat(step.scale);
  for_each_row(step, image, [&](int64_t, int64_t, const float* g, float* out) {
    for (int64_t x = 0; x < width; ++x) {
      store(out + x * kL, load(out + x * kL) + scale * load(g + x * kL));
    }
  });
}

void mask(const LaneStep& step, int64_t image) {
  const V scale = splat(step.scale);
  const PixelList& list = *step.pixels;
  for (int64_t c = 0; c < step.channels; ++c) {
    const float* g = pixel(*step.gradient, image, step.first + c);
    float* out = const_cast<float*>(pixel(*step.out, image, c));
    const int32_t* rows = list.begin + (image * list.channels + c) * list.rows;
    for (int32_t e = rows[0]; e < rows[list.rows]; ++e) {
      float* to = out + static_cast<int64_t>(list.to[e]) * kL;
      store(to, load(to) + scale * load(g + static_cast<int64_t>(list.to[e]) * kL));
    }
  }
}

void normalize(const LaneStep& step, int64_t image) {
  const int64_t width = step.gradient->level.width;
  for_each_row(step, image, [&](int64_t c, int64_t y, const float* g, float* out) {
    const float* k = step.coefficients + c * kL;
    const V c0 = load(k), c1 = load(k + step.channels * kL), c2 = load(k + 2 * step.channels * kL);
    const float* value = value_row(step, image, c, y);
    for (int64_t x = 0; x < width; ++x) {
      const V d = c0 * load(g + x * kL) - c1 - c2 * splat(value[x]);
      store(out + x * kL, load(out + x * kL) + d);
    }
  });
}

// Sums over three columns are kept for the last three rows.
void box(const LaneStep& step, int64_t image, float* scratch) {
  const LaneLevel& level = step.gradient->level;
  const int64_t width = level.width, line = (width + 2) * kL;
  const V scale = splat(step.scale);
  for (int64_t c = 0; c < step.channels; ++c) {
    const float* g = pixel(*step.gradient, image, step.first + c) + level.lead * kL;
    float* out = const_cast<float*>(pixel(*step.out, image, c)) + level.lead * kL;
    std::memset(scratch + 2 * line, 0, static_cast<size_t>(line) * sizeof(float));
    for (int64_t y = 0; y <= level.height; ++y) {
      float* row = scratch + y % 3 * line;
      if (y < level.height) {
        const float* share = step.value + y * width;
        V left{}, middle = load(g + y * level.pitch * kL) * splat(share[0]);
        for (int64_t x = 0; x < width; ++x) {
          V right{};
          if (x + 1 < width) {
            right = load(g + (y * level.pitch + x + 1) * kL) * splat(share[x + 1]);
          }
          store(row + x * kL, left + middle + right);
          left = middle;
          middle = right;
        }
      } else {
        std::memset(row, 0, static_cast<size_t>(line) * sizeof(float));
      }
      if (y == 0) continue;
      float* to = out + (y - 1) * level.pitch * kL;
      const float *above = scratch + (y + 1) % 3 * line, *here = scratch + (y + 2) % 3 * line;
      for (int64_t x = 0; x < width; ++x) {
        const V all = load(above + x * kL) + load(here + x * kL) + load(row + x * kL);
        store(to + x * kL, load(to + x * kL) + scale * all);
      }
    }
  }
}

void average_pool(const LaneStep& step, int64_t image) {
  const LaneLevel &from = step.gradient->level, &to = step.out->level;
  for (int64_t c = 0; c < step.channels; ++c) {
    const float* g = pixel(*step.gradient, image, step.first + c) + from.lead * kL;
    float* out = const_cast<float*>(pixel(*step.out, image, c)) + to.lead * kL;
    for (int64_t i = 0; i < from.height * from.width; ++i) {
      const int64_t py = i / from.width, px = i % from.width;
      const V share = load(g + (py * from.pitch + px) * kL) * splat(step.scale * step.value[i]);
      const int64_t top = py * step.stride - step.padding, left = px * step.stride - step.padding;
      for (int64_t y = top < 0 ? 0 : top; y < top + step.kernel && y < to.height; ++y) {
        for (int64_t x = left < 0 ? 0 : left; x < left + step.kernel && x < to.width; ++x) {
          float* at = out + (y * to.pitch + x) * kL;
          store(at, load(at) + share);
        }
      }
    }
  }
}

void max_pool(const LaneStep& step, int64_t image) {
  const LaneLevel &from = step.gradient->level, &to = step.out->level;
  const V scale = splat(step.scale);
  for_each_row(step, image, [&](int64_t c, int64_t y, const float* g, float* out) {
    const int32_t* index =
        step.index + ((image * step.channels + c) * from.height + y) * from.width;
    float* base = out - y * to.pitch * kL;
    for (int64_t x = 0; x < from.width; ++x) {
      float* at = base + (index[x] / to.width * to.pitch + index[x] % to.width) * kL;
      store(at, load(at) + scale * load(g + x * kL));
    }
  });
}

void run(const LaneStep& step, int64_t image, const LaneBlock& block) {
  if (step.clears) {
    std::memset(const_cast<float*>(pixel(*step.out, image, 0)), 0,
                static_cast<size_t>(step.out->image * kL) * sizeof(float));
  }
  switch (step.kind) {
    case LaneStepKind::kStart:
      return start(step, image, block);
    case LaneStepKind::kSum:
      return sum(step, image, block);
    case LaneStepKind::kMoment:
      return moment(step, image, block);
    case LaneStepKind::kCorrelate:
    case LaneStepKind::kSpread:
      return find_convolve(step.tap_rows, step.tap_columns, step.spacing)(step, image, block);
    case LaneStepKind::kAdd:
      return add(step, image);
    case LaneStepKind::kMask:
      return mask(step, image);
    case LaneStepKind::kNormalize:
      return normalize(step, image);
    case LaneStepKind::kBox:
      return box(step, image, block.scratch);
    case LaneStepKind::kAveragePool:
      return average_pool(step, image);
    case LaneStepKind::kMaxPool:
      return max_pool(step, image);
  }
}

// Tiles of kTile rows by two vectors of columns; every sum runs over the rows in order, in pieces
// that stay in the cache.
constexpr int kTile = 4;
using D = Vector<double>;

void gram(const LaneGramJob& job) {
  constexpr int kWide = 2 * kLanes<double>;
  constexpr int64_t kPiece = 128;
  for (int64_t first = 0; first < job.columns; first += kPiece) {
    const int64_t last = first + kPiece < job.columns ? first + kPiece : job.columns;
    for (int64_t i = job.begin; i < job.end; i += kTile) {
      for (int64_t j = 0; j < i + kTile; j += kWide) {
        double* out = job.gram + i * job.stride + j;
        D sum[2 * kTile];
        unroll<2 * kTile>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
          sum[k] = load(out + k / 2 * job.stride + k % 2 * kLanes<double>);
        });
        for (int64_t r = first; r < last; ++r) {
          const double* row = job.rows + r * job.stride;
          const D one = load(row + j), two = load(row + j + kLanes<double>);
          unroll<kTile>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
            const D left = splat(row[i + k]);
            sum[2 * k] += left * one;
            sum[2 * k + 1] += left * two;
          });
        }
        unroll<2 * kTile>([&](auto k) SUPERTICKETS_LAMBDA_INLINE {
          store(out + k / 2 * job.stride + k % 2 * kLanes<double>, sum[k]);
        });
      }
    }
  }
}

bool has_taps(int64_t rows, int64_t columns, int64_t spacing) {
  return find_convolve(rows, columns, spacing) != nullptr;
}

}  // namespace

const NtkLanesKernels& ntk_lanes_kernels() {
  static const NtkLanesKernels kernels = {kL, &has_taps, &run, &gram, kTile};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
