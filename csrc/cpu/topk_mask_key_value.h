// Between a key and the score, or magnitude, that it stands for.
#pragma once

#include "topk_mask.h"

namespace supertickets {

inline int key_bits(StorageType storage) {
  return storage == StorageType::kFloat64 ? 64 : storage == StorageType::kFloat32 ? 32 : 16;
}

double value_of_key(const TopkMaskParams& params, int64_t key);
// Of a value that a score of that type can have.
int64_t key_of_value(const TopkMaskParams& params, double value);

// The i-th of an array of that type, which holds the value exactly.
void write_value(void* values, StorageType storage, int64_t i, double value);
double read_value(const void* values, StorageType storage, int64_t i);

}  // namespace supertickets
