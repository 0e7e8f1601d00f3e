// Exact top-k masks and mask updates on the GPU, without any framework type and without waiting for
// the device.
//
// A radix select: each pass counts the next 11 bits of the keys that match what is known of the
// threshold, and one block per ranking picks the digit that holds it. Entries of the threshold's
// key are taken by their place: chunks count theirs, a prefix over the chunks ranks them. All sums
// are of integers, so that results do not depend on the order of blocks.
#pragma once

#include "../core/storage_type.h"
#include "runtime.h"

namespace supertickets::cuda {

inline constexpr int64_t kChunk = 8192;  // entries that a block takes at a time
inline constexpr int kDigitBits = 11;
inline constexpr int kBins = 1 << kDigitBits;

// A contiguous tensor, or a part of one.
struct Piece {
  const void* scores = nullptr;
  const void* inactive_scores = nullptr;  // what inactive entries are ranked by; often the same
  bool* mask = nullptr;
  int64_t count = 0;
  int64_t first_chunk = 0;  // of all pieces' chunks
  int64_t segment = 0;      // pieces of a segment are ranked together; neighbours in the list
};

// The search for one threshold.
struct Ranking {
  int64_t keep;   // entries in the set
  uint64_t key;   // of the threshold, as far as known
  int64_t ties;   // entries in the set that have this key
  int64_t there;  // entries that have this key
};

// A segment's numbers.
struct Segment {
  int64_t first_chunk, chunks, entries;
  Ranking all;               // of every entry
  Ranking by_state[2];       // of inactive entries, of active ones
  int64_t missing, surplus;  // entries inside the set of `all` and inactive; outside it, active
  int64_t grown, pruned;     // what is done of that
};

// Device memory of a call.
struct Tables {
  Piece* pieces;
  int64_t piece_count, chunk_count;
  Segment* segments;
  int64_t segment_count;
  unsigned long long* histograms;  // [segments, 2, kBins]
  int64_t* ties;  // [2, chunks]: entries of the threshold's key in a chunk, then before it
};

int64_t table_bytes(int64_t pieces, int64_t segments, int64_t chunks);
Tables tables_in(void* memory, int64_t pieces, int64_t segments, int64_t chunks);

struct SelectParams {
  Tables tables;
  StorageType storage;
  bool by_magnitude;
};

// What the thresholds are of: every entry, or inactive and active entries among themselves.
enum class RankedBy { kAll, kState };

// The launchers. Lists lie on the host, and are read before the call returns.
void write_tables(const Tables& tables, const Piece* pieces, const int64_t* keep,
                  cudaStream_t stream);
void select(const SelectParams& params, RankedBy by, cudaStream_t stream);
// Makes the masks the set of `all`, whatever they were.
void write_masks(const SelectParams& params, cudaStream_t stream);
// Moves the masks towards the set of `all`: at most `most` swaps, at most ceil(wanted * fraction).
inline constexpr int64_t kUnbounded = INT64_MAX;
void update_masks(const SelectParams& params, int64_t most, double fraction, cudaStream_t stream);
// Prunes the active entries of the smallest scores, grows as many inactive ones.
void rigl_update(const SelectParams& params, int64_t swaps, cudaStream_t stream);

// One entry per segment.
struct UpdateResults {
  void* threshold;  // scores' type
  int64_t *grown, *pruned, *wanted;
};
void write_results(const SelectParams& params, const UpdateResults& results, cudaStream_t stream);
struct RiglResults {
  void *kept_weight, *grown_grad;  // scores' type
  int64_t* swaps;
};
void write_rigl_results(const SelectParams& params, const RiglResults& results,
                        cudaStream_t stream);

// scores and mask [rows, n]: every row by itself, a block for each; for short rows.
struct RowsParams {
  const void* scores;
  bool* mask;
  int64_t rows, n, keep;
  StorageType storage;
  bool by_magnitude;
};
void topk_rows(const RowsParams& params, cudaStream_t stream);

}  // namespace supertickets::cuda
