#include "topk_mask_arrays.h"

#include <algorithm>
#include <functional>

namespace supertickets {

int64_t count_above(Isa isa, StorageType storage, const KeyArray& array, int64_t pivot) {
  return topk_mask_kernels(isa).above[static_cast<int>(storage)]({array.keys, array.count, pivot});
}

KeyRank key_of_rank(Isa isa, StorageType storage, const std::vector<KeyArray>& arrays,
                    int64_t rank) {
  constexpr int64_t kFew = 64;  // keys that are sooner sorted than counted again
  const int bits = storage == StorageType::kFloat64   ? 64
                   : storage == StorageType::kFloat32 ? 32
                                                      : 16;
  const auto above = [&](int64_t pivot) {
    int64_t count = 0;
    for (const KeyArray& array : arrays) count += count_above(isa, storage, array, pivot);
    return count;
  };
  // The key is in (low, high].
  int64_t high = static_cast<int64_t>((uint64_t{1} << (bits - 1)) - 1), low = -high - 1;
  int64_t above_low = 0, above_high = 0;
  for (const KeyArray& array : arrays) above_low += array.count;
  bool guess = false;
  while (static_cast<uint64_t>(high) - static_cast<uint64_t>(low) > 1 &&
         above_low - above_high > kFew) {
    const uint64_t width = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
    uint64_t step = width / 2;
    if (guess) {  // as if the keys were spread evenly
      const double share =
          static_cast<double>(above_low - rank) / static_cast<double>(above_low - above_high);
      step = std::clamp(static_cast<uint64_t>(share * static_cast<double>(width)), uint64_t{1},
                        width - 1);
    }
    guess = !guess;
    const auto pivot = static_cast<int64_t>(static_cast<uint64_t>(low) + step);
    const int64_t count = above(pivot);
    if (count >= rank) {
      low = pivot;
      above_low = count;
    } else {
      high = pivot;
      above_high = count;
    }
  }
  if (static_cast<uint64_t>(high) - static_cast<uint64_t>(low) <= 1) return {high, above_high};
  int64_t rest[kFew];
  int64_t count = 0;
  for (const KeyArray& array : arrays) {
    count += topk_mask_kernels(isa).inside[static_cast<int>(storage)](
        {array.keys, array.count, low}, high, rest + count);
  }
  std::sort(rest, rest + count, std::greater<>());
  const int64_t key = rest[rank - above_high - 1];
  const int64_t larger = std::find(rest, rest + count, key) - rest;
  return {key, above_high + larger};
}

}  // namespace supertickets
