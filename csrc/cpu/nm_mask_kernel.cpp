// The inner loops of nm_mask; compiled once per instruction set. An entry is kept if fewer than n
// of its group are better: larger, or equal and earlier.
#include "nm_mask.h"
#include "topk_mask_key.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

template <class K>
SUPERTICKETS_INLINE void store_flags(bool* to, Vector<K> flags) {
  typedef int8_t Bytes __attribute__((vector_size(kLanes<K>)));
  const Bytes bytes = -__builtin_convertvector(flags, Bytes);
  std::memcpy(to, &bytes, sizeof(bytes));
}

// Rows of at least a vector: a vector of groups at once. kGroup is m if it is a common one, so that
// a group's keys stay in registers, or 0.
template <class S, bool kByMagnitude, int kGroup>
void wide(const NmMaskJob& job) {
  using K = Key<S>;
  const int64_t m = kGroup > 0 ? kGroup : job.m;
  const Vector<K> bound = splat(static_cast<K>(job.n));
  constexpr int64_t kKeys = kGroup > 0 ? kGroup : kGroupMost;
  for (int64_t block = 0; block < job.blocks; ++block) {
    const int64_t first = block * m * job.inner;
    const S* scores = static_cast<const S*>(job.scores) + first;
    bool* mask = job.mask + first;
    for (int64_t step = 0; step < job.inner; step += kLanes<K>) {
      // The last vector may repeat entries of the one before.
      const int64_t i = step + kLanes<K> <= job.inner ? step : job.inner - kLanes<K>;
      Vector<K> keys[kKeys], better[kKeys];
      for (int64_t j = 0; j < m; ++j) {
        keys[j] = keys_of<S, kByMagnitude>(scores + j * job.inner + i);
        better[j] = Vector<K>{};
        for (int64_t k = 0; k < j; ++k) {
          const Vector<K> later = keys[j] > keys[k];  // -1 where it is better
          better[k] -= later;
          better[j] += later + 1;
        }
      }
      for (int64_t j = 0; j < m; ++j) {
        store_flags<K>(mask + j * job.inner + i, better[j] < bound);
      }
    }
  }
}

// Short rows: entries in the order of memory, beside those d rows away.
template <class S, bool kByMagnitude>
void narrow(const NmMaskJob& job) {
  using K = Key<S>;
  constexpr int64_t kMargin = kGroupMost * kLanes<K>, kChunk = 2 * kMargin;
  const int64_t size = job.m * job.inner, margin = (job.m - 1) * job.inner;
  const int64_t together = kChunk / size;
  K keys[kMargin + kChunk + kMargin] = {};
  K rows[kChunk + kLanes<K>] = {};
  bool flags[kChunk + kLanes<K>];
  for (int64_t i = 0; i < together * size; ++i) rows[i] = static_cast<K>(i / job.inner % job.m);
  const Vector<K> bound = splat(static_cast<K>(job.n)), groups = splat(static_cast<K>(job.m));
  for (int64_t block = 0; block < job.blocks; block += together) {
    const int64_t blocks = job.blocks - block < together ? job.blocks - block : together;
    const int64_t count = blocks * size;
    const S* scores = static_cast<const S*>(job.scores) + block * size;
    for (int64_t i = 0; i < count; ++i) keys[kMargin + i] = key_of<S, kByMagnitude>(scores[i]);
    for (int64_t i = 0; i < count; i += kLanes<K>) {
      const Vector<K> own = load(keys + kMargin + i), row = load(rows + i);
      Vector<K> better{};
      for (int64_t away = job.inner; away <= margin; away += job.inner) {
        const K distance = static_cast<K>(away / job.inner);
        const Vector<K> earlier = load(keys + kMargin + i - away);
        const Vector<K> later = load(keys + kMargin + i + away);
        better -= ~(own > earlier) & (row >= distance);
        better -= (later > own) & (row + distance < groups);
      }
      store_flags<K>(flags + i, better < bound);
    }
    std::memcpy(job.mask + block * size, flags, static_cast<size_t>(count));
  }
}

template <class S, bool kByMagnitude>
void nm_mask(const NmMaskJob& job) {
  if (job.inner < kLanes<Key<S>>) return narrow<S, kByMagnitude>(job);
  if (job.m == 4) return wide<S, kByMagnitude, 4>(job);
  if (job.m == 8) return wide<S, kByMagnitude, 8>(job);
  wide<S, kByMagnitude, 0>(job);
}

}  // namespace

const NmMaskKernels& nm_mask_kernels() {
  static const NmMaskKernels kernels = {{{&nm_mask<float, false>, &nm_mask<float, true>},
                                         {&nm_mask<BFloat16, false>, &nm_mask<BFloat16, true>},
                                         {&nm_mask<Float16, false>, &nm_mask<Float16, true>},
                                         {&nm_mask<double, false>, &nm_mask<double, true>}}};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
