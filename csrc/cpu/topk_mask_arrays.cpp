#include "topk_mask_arrays.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "topk_mask_key_value.h"

namespace supertickets {
namespace {

constexpr int64_t kFew = 1 << 10;      // keys that are sooner partitioned than counted
constexpr int64_t kFewest = 1 << 8;    // keys of which no sample is drawn
constexpr int64_t kSampleMost = 1024;  // of an array, to narrow it down
constexpr double kSigmas = 4;

// (low, high] holds the key that is looked for.
struct Bracket {
  int64_t low, high;
  int64_t above_low, above_high;  // keys above either end

  uint64_t width() const { return static_cast<uint64_t>(high) - static_cast<uint64_t>(low); }
  int64_t inside() const { return above_low - above_high; }
  bool done() const { return width() <= 1; }

  void narrow(int64_t pivot, int64_t above, int64_t rank) {
    if (pivot <= low || pivot >= high) return;
    if (above >= rank) {
      low = pivot;
      above_low = above;
    } else {
      high = pivot;
      above_high = above;
    }
  }
};

class Keys {
 public:
  Keys(Isa isa, StorageType storage, const std::vector<KeyArray>& arrays)
      : isa_(isa), storage_(storage), arrays_(arrays) {
    for (const KeyArray& array : arrays) count_ += array.count;
  }

  int64_t count() const { return count_; }

  int64_t above(int64_t pivot) const {
    int64_t count = 0;
    for (const KeyArray& array : arrays_) count += count_above(isa_, storage_, array, pivot);
    return count;
  }

  std::vector<int64_t> inside(const Bracket& bracket) const {
    std::vector<int64_t> keys(static_cast<size_t>(bracket.inside()));
    int64_t count = 0;
    for (const KeyArray& array : arrays_) {
      count += topk_mask_kernels(isa_).inside[static_cast<int>(storage_)](
          {array.keys, array.count, bracket.low}, bracket.high, keys.data() + count);
    }
    return keys;
  }

  // At even distances.
  std::vector<int64_t> sample(int64_t size) const {
    std::vector<int64_t> keys;
    keys.reserve(static_cast<size_t>(size));
    const double step = static_cast<double>(count_) / static_cast<double>(size);
    auto array = arrays_.begin();
    int64_t first = 0;
    for (int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<int64_t>(static_cast<double>(i) * step);
      for (; at >= first + array->count; ++array) first += array->count;
      keys.push_back(key_at(*array, at - first));
    }
    return keys;
  }

 private:
  int64_t key_at(const KeyArray& array, int64_t i) const {
    const auto read = [&](auto key) {
      const char* keys = static_cast<const char*>(array.keys);
      std::memcpy(&key, keys + i * static_cast<int64_t>(sizeof(key)), sizeof(key));
      return static_cast<int64_t>(key);
    };
    if (storage_ == StorageType::kFloat64) return read(int64_t{});
    return storage_ == StorageType::kFloat32 ? read(int32_t{}) : read(int16_t{});
  }

  Isa isa_;
  StorageType storage_;
  const std::vector<KeyArray>& arrays_;
  int64_t count_ = 0;
};

// The narrower bracket that a sample of the keys suggests, as far as counts confirm it.
void narrow_by_sample(const Keys& keys, int64_t rank, Bracket& bracket) {
  const int64_t size = std::clamp<int64_t>(keys.count() / 16, 32, kSampleMost);
  std::vector<int64_t> sample = keys.sample(size);
  const double share = static_cast<double>(rank) / static_cast<double>(keys.count());
  const double place = share * static_cast<double>(size);
  const double slack = kSigmas * std::sqrt(place * (1 - share)) + 2;
  for (const double at : {place - slack, place + slack}) {
    if (at < 0 || at >= static_cast<double>(size)) continue;
    const auto position = sample.begin() + static_cast<int64_t>(at);
    std::nth_element(sample.begin(), position, sample.end(), std::greater<>());
    // The lower end is outside the bracket, and the sampled key itself must not be.
    const int64_t pivot = *position - (at > place ? 1 : 0);
    bracket.narrow(pivot, keys.above(pivot), rank);
  }
}

}  // namespace

int64_t count_above(Isa isa, StorageType storage, const KeyArray& array, int64_t pivot) {
  return topk_mask_kernels(isa).above[static_cast<int>(storage)]({array.keys, array.count, pivot});
}

KeyRank key_of_rank(Isa isa, StorageType storage, const std::vector<KeyArray>& arrays,
                    int64_t rank) {
  const Keys keys(isa, storage, arrays);
  const int64_t most = static_cast<int64_t>((uint64_t{1} << (key_bits(storage) - 1)) - 1);
  Bracket bracket{-most - 1, most, keys.count(), 0};
  if (keys.count() > kFewest) narrow_by_sample(keys, rank, bracket);
  while (!bracket.done() && bracket.inside() > std::max(kFew, keys.count() / 2)) {
    const auto pivot =
        static_cast<int64_t>(static_cast<uint64_t>(bracket.low) + bracket.width() / 2);
    bracket.narrow(pivot, keys.above(pivot), rank);
  }
  if (bracket.done()) return {bracket.high, bracket.above_high};
  std::vector<int64_t> rest = keys.inside(bracket);
  const int64_t own_rank = rank - bracket.above_high;
  if (bracket.inside() > kFew) {  // at most half as many
    const KeyRank found =
        key_of_rank(isa, StorageType::kFloat64, {{rest.data(), bracket.inside()}}, own_rank);
    return {found.key, bracket.above_high + found.above};
  }
  const auto place = rest.begin() + (own_rank - 1);
  std::nth_element(rest.begin(), place, rest.end(), std::greater<>());
  const int64_t key = *place;
  const auto larger = std::count_if(rest.begin(), place, [key](int64_t k) { return k > key; });
  return {key, bracket.above_high + larger};
}

}  // namespace supertickets
