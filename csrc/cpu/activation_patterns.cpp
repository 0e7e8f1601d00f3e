#include "activation_patterns.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace supertickets {
namespace {

inline constexpr int64_t kHammingRows = 4;  // of one job, as many as the kernels keep together
inline constexpr int64_t kGrainBits = int64_t{1} << 18;

}  // namespace

void pack_signs(const PackSignsParams& params) {
  const ActivationPatternsKernels& kernels = activation_patterns_kernels(params.isa);
  const auto kernel =
      params.flags ? kernels.pack_flags : kernels.pack[static_cast<int>(params.storage)];
  const int64_t grain = std::max<int64_t>(1, kGrainBits / std::max<int64_t>(1, params.neurons));
  parallel_for(params.parallel, params.rows, grain,
               [&](int64_t begin, int64_t end) { kernel(params, begin, end); });
}

int64_t count_patterns(const PatternParams& params) {
  const auto rows = static_cast<size_t>(params.rows);
  std::vector<uint64_t> hashes(rows);
  const auto hash = activation_patterns_kernels(params.isa).hash;
  const int64_t grain = std::max<int64_t>(1, kGrainBits / 64 / std::max<int64_t>(1, params.words));
  parallel_for(params.parallel, params.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      hashes[static_cast<size_t>(i)] = hash(params.patterns + i * params.words, params.words);
    }
  });
  size_t slots = 16;
  while (slots < 2 * rows) slots *= 2;
  std::vector<int64_t> table(slots, -1);  // open addressing; row indices
  const auto bytes = static_cast<size_t>(params.words) * sizeof(uint64_t);
  int64_t distinct = 0;
  for (size_t i = 0; i < rows; ++i) {
    size_t slot = hashes[i] & (slots - 1);
    for (; table[slot] >= 0; slot = (slot + 1) & (slots - 1)) {
      const auto other = static_cast<size_t>(table[slot]);
      if (hashes[other] == hashes[i] &&
          (bytes == 0 || std::memcmp(params.patterns + other * bytes / sizeof(uint64_t),
                                     params.patterns + i * bytes / sizeof(uint64_t), bytes) == 0)) {
        break;
      }
    }
    if (table[slot] >= 0) continue;
    table[slot] = static_cast<int64_t>(i);
    ++distinct;
  }
  return distinct;
}

void hamming_gram(const PatternParams& params, int32_t* distances) {
  const auto kernel = activation_patterns_kernels(params.isa).hamming;
  const int64_t jobs = (params.rows + kHammingRows - 1) / kHammingRows;
  // Early rows have more partners than late ones: pairs of an early and a late job are alike.
  const auto run = [&](int64_t job) {
    const int64_t first = job * kHammingRows;
    kernel({params.patterns, params.rows, params.words, first,
            std::min(kHammingRows, params.rows - first), distances});
  };
  parallel_for(params.parallel, (jobs + 1) / 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      run(job);
      if (jobs - 1 - job != job) run(jobs - 1 - job);
    }
  });
  constexpr int64_t kTile = 16;
  parallel_for(
      params.parallel, (params.rows + kTile - 1) / kTile, 8, [&](int64_t begin, int64_t end) {
        for (int64_t i0 = begin * kTile; i0 < std::min(end * kTile, params.rows); i0 += kTile) {
          for (int64_t j0 = 0; j0 <= i0; j0 += kTile) {
            for (int64_t i = i0; i < std::min(i0 + kTile, params.rows); ++i) {
              for (int64_t j = j0; j < std::min(j0 + kTile, i); ++j) {
                distances[i * params.rows + j] = distances[j * params.rows + i];
              }
            }
          }
        }
      });
}

}  // namespace supertickets
