// Activation patterns on the GPU, see csrc/cpu/activation_patterns.h. No framework type.
#pragma once

#include "../core/storage_type.h"
#include "runtime.h"

namespace supertickets::cuda {

struct PackSignsParams {
  const void* values;  // [rows, neurons]
  int64_t rows, neurons;
  uint64_t* patterns;  // bits [bit, bit + neurons) of each row are zero before
  int64_t pattern_stride;
  int64_t bit;
  StorageType storage;
  bool flags;  // values are of one byte, zero or not; storage is then of no meaning
};
cudaError_t pack_signs(const PackSignsParams& params, cudaStream_t stream);

struct CountPatternsParams {
  const uint64_t* patterns;  // [rows, words]
  int64_t rows, words;
  uint64_t* hashes;  // [rows, 2], written
  int64_t* table;    // [table_size], filled with -1 here; a power of two, at least 2 rows
  int64_t table_size;
  int64_t* count;  // result, one number
};
cudaError_t count_patterns(const CountPatternsParams& params, cudaStream_t stream);

// distances [rows, rows], symmetric.
cudaError_t hamming_gram(const uint64_t* patterns, int64_t rows, int64_t words, int32_t* distances,
                         cudaStream_t stream);

}  // namespace supertickets::cuda
