// Activation patterns: one bit for each neuron and sample, set where the pre-activation is > 0.
// Bit b of a row is bit b % 64 of its word b / 64. No framework type.
#pragma once

#include <cstdint>

#include "../core/storage_type.h"
#include "isa.h"
#include "parallel.h"

namespace supertickets {

struct PackSignsParams {
  const void* values;  // [rows, neurons]
  int64_t rows, neurons, value_stride;
  uint64_t* patterns;  // bits [bit, bit + neurons) of each row are zero before
  int64_t pattern_stride;
  int64_t bit;
  StorageType storage;
  bool flags;  // values are of one byte, zero or not; storage is then of no meaning
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

struct PatternParams {
  const uint64_t* patterns;  // [rows, words]
  int64_t rows, words;
  Parallel parallel;
  Isa isa = Isa::kBaseline;
};

// A square of the distance matrix: rows [first, first + count) against all rows from `first` on.
struct HammingJob {
  const uint64_t* patterns;
  int64_t rows, words, first, count;
  int32_t* distances;  // [rows, rows]; the upper triangle is written
};

struct ActivationPatternsKernels {
  void (*pack[kStorageTypes])(const PackSignsParams&, int64_t begin, int64_t end);
  void (*pack_flags)(const PackSignsParams&, int64_t begin, int64_t end);
  void (*hamming)(const HammingJob&);
  // A number for a row; rows that differ may share it, which costs a comparison.
  uint64_t (*hash)(const uint64_t* row, int64_t words);
};
SUPERTICKETS_DECLARE_KERNELS(ActivationPatternsKernels, activation_patterns_kernels)

void pack_signs(const PackSignsParams& params);
// Exact: rows of equal hash are compared.
int64_t count_patterns(const PatternParams& params);
// distances [rows, rows], symmetric.
void hamming_gram(const PatternParams& params, int32_t* distances);

}  // namespace supertickets
