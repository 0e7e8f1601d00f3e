// The inner loops of topk_mask; compiled once per instruction set.
#include "topk_mask.h"
#include "topk_mask_key.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

template <class S, bool kByMagnitude>
void histogram(const HistogramJob& job) {
  const S* scores = static_cast<const S*>(job.scores);
  for (int64_t i = 0; i < job.count; ++i) {
    const uint64_t digits = uint64_t{key_of<S, kByMagnitude>(scores[i])} >> job.shift;
    if (digits >> kDigitBits == job.prefix) ++job.bins[digits & (kDigits - 1)];
  }
}

// Whether entry i is in the top-k set; counts the ties that are left.
template <class U>
SUPERTICKETS_INLINE bool chosen(U key, U threshold, int64_t& ties) {
  if (key == threshold && ties > 0) {
    --ties;
    return true;
  }
  return key > threshold;
}

template <class S, bool kByMagnitude>
void write(const SelectJob& job) {
  using U = typename Bits<S>::type;
  const S* scores = static_cast<const S*>(job.scores);
  const U threshold = static_cast<U>(job.threshold.key);
  bool* mask = job.mask;
  int64_t i = 0;
  for (int64_t ties = job.threshold.ties; ties > 0 && i < job.count; ++i) {
    mask[i] = chosen(key_of<S, kByMagnitude>(scores[i]), threshold, ties);
  }
  for (; i < job.count; ++i) mask[i] = key_of<S, kByMagnitude>(scores[i]) > threshold;
}

template <class S, bool kByMagnitude>
void change(const ChangeJob& job) {
  using U = typename Bits<S>::type;
  const S* scores = static_cast<const S*>(job.select.scores);
  const bool* mask = job.select.mask;
  const U threshold = static_cast<U>(job.select.threshold.key);
  int64_t ties = job.select.threshold.ties;
  int64_t counts[2] = {0, 0};
  Change* next = job.changes;
  for (int64_t i = 0; i < job.select.count; ++i) {
    const U key = key_of<S, kByMagnitude>(scores[i]);
    const bool keep = chosen(key, threshold, ties);
    if (keep == mask[i]) continue;
    ++counts[keep ? 0 : 1];
    if (next != nullptr && keep == job.grow) *next++ = {key, job.first + i};
  }
  job.counts[0] += counts[0];
  job.counts[1] += counts[1];
}

}  // namespace

#define SUPERTICKETS_TABLE(kernel)                         \
  {                                                        \
      {&kernel<float, false>, &kernel<float, true>},       \
      {&kernel<BFloat16, false>, &kernel<BFloat16, true>}, \
      {&kernel<Float16, false>, &kernel<Float16, true>},   \
      {&kernel<double, false>, &kernel<double, true>},     \
  }

const TopkMaskKernels& topk_mask_kernels() {
  static const TopkMaskKernels kernels = {SUPERTICKETS_TABLE(histogram), SUPERTICKETS_TABLE(write),
                                          SUPERTICKETS_TABLE(change)};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
