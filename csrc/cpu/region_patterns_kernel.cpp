// The inner loops of region_patterns; compiled once per instruction set.
#include <cmath>

#include "region_patterns.h"
#include "simd.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

using Floats = Vector<float>;
inline constexpr int64_t kWide = kLanes<float>;
// A block of samples for which one weight is fetched: a row is a multiple of it.
inline constexpr int kBlock = static_cast<int>(kRegionLanes / kWide);

void sum(const float* const* rows, const float* weights, int64_t count, float bias, float* to,
         int64_t length) {
  for (int64_t s = 0; s < length; s += kBlock * kWide) {
    Floats total[kBlock];
    for (int k = 0; k < kBlock; ++k) total[k] = splat(bias);
    for (int64_t t = 0; t < count; ++t) {
      const Floats weight = splat(weights[t]);
      for (int k = 0; k < kBlock; ++k) total[k] += weight * load(rows[t] + s + k * kWide);
    }
    for (int k = 0; k < kBlock; ++k) store(to + s + k * kWide, total[k]);
  }
}

void max(const float* const* rows, int64_t count, float* to, int64_t length) {
  for (int64_t s = 0; s < length; s += kWide) {
    Floats most = load(rows[0] + s);
    for (int64_t t = 1; t < count; ++t) {
      const Floats value = load(rows[t] + s);
      most = value > most || value != value ? value : most;  // NaN stays, as in torch
    }
    store(to + s, most);
  }
}

// Sum over the samples of a row of (value - shift)^power, in double from lanes of float.
template <int kPower>
SUPERTICKETS_INLINE double moment(const float* row, int64_t samples, float shift) {
  Floats total[2] = {};
  const Floats less = splat(shift);
  int64_t s = 0;
  for (; s + 2 * kWide <= samples; s += 2 * kWide) {
    for (int k = 0; k < 2; ++k) {
      const Floats value = load(row + s + k * kWide) - less;
      total[k] += kPower == 1 ? value : value * value;
    }
  }
  double sum = horizontal_sum<float>(total[0] + total[1]);
  for (; s < samples; ++s) {
    const double value = row[s] - shift;
    sum += kPower == 1 ? value : value * value;
  }
  return sum;
}

void norm(const float* from, float* to, int64_t pixels, int64_t samples, int64_t pitch,
          float weight, float bias, float epsilon) {
  const double count = static_cast<double>(pixels) * static_cast<double>(samples);
  double sum = 0, squares = 0;
  for (int64_t p = 0; p < pixels; ++p) sum += moment<1>(from + p * pitch, samples, 0);
  const auto mean = static_cast<float>(sum / count);
  for (int64_t p = 0; p < pixels; ++p) squares += moment<2>(from + p * pitch, samples, mean);
  const float scale =
      weight * static_cast<float>(1 / std::sqrt(squares / count + static_cast<double>(epsilon)));
  const Floats factor = splat(scale), shift = splat(bias - mean * scale);
  for (int64_t i = 0; i < pixels * pitch; i += kWide)
    store(to + i, load(from + i) * factor + shift);
}

void relu(const float* from, float* to, int64_t rows, int64_t pitch, int64_t bit, uint32_t* words) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = from + r * pitch;
    float* y = to + r * pitch;
    int32_t* word = reinterpret_cast<int32_t*>(words) + (bit + r) / 32 * pitch;
    const Lanes<float> flag = splat(static_cast<int32_t>(uint32_t{1} << ((bit + r) % 32)));
    for (int64_t s = 0; s < pitch; s += kWide) {
      const Floats value = load(x + s);
      const Lanes<float> on = value > 0;
      store(word + s, load(word + s) | (on & flag));
      store(y + s, value < 0 ? Floats{} : value);  // NaN stays
    }
  }
}

}  // namespace

const RegionKernels& region_kernels() {
  static const RegionKernels kernels = {&sum, &max, &norm, &relu};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
