// Order statistics of keys that lie in arrays.
#pragma once

#include <vector>

#include "topk_mask_jobs.h"

namespace supertickets {

// An array of keys as wide as the scores of that type.
struct KeyArray {
  const void* keys;
  int64_t count;
};

struct KeyRank {
  int64_t key;
  int64_t above;  // keys larger than it
};

int64_t count_above(Isa isa, StorageType storage, const KeyArray& array, int64_t pivot);

// The rank-th largest key of all arrays, 1 <= rank <= number of keys. Reads them some ten times.
KeyRank key_of_rank(Isa isa, StorageType storage, const std::vector<KeyArray>& arrays,
                    int64_t rank);

}  // namespace supertickets
