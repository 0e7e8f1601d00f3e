// Device memory of the top-k operators, and what goes in and out of it.
#include "block.cuh"
#include "mask_entries.cuh"
#include "score_key.cuh"
#include "topk_mask.h"

namespace supertickets::cuda {
namespace {

constexpr int64_t kAlign = 256;
constexpr int kPerLaunch = 48;  // pieces, or numbers, that travel as arguments of one kernel

int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

template <class T>
struct Batch {
  T values[kPerLaunch];
};

template <class T>
__global__ void write_batch(T* to, Batch<T> batch, int count) {
  const int i = threadIdx.x;
  if (i < count) to[i] = batch.values[i];
}

// Arguments, unlike copies, are read at the call: nothing on the host has to outlive it.
template <class T>
void write_list(T* to, const T* from, int64_t count, cudaStream_t stream) {
  const auto kernel = write_batch<T>;
  for (int64_t first = 0; first < count; first += kPerLaunch) {
    Batch<T> batch{};
    const int size = static_cast<int>(count - first < kPerLaunch ? count - first : kPerLaunch);
    for (int i = 0; i < size; ++i) batch.values[i] = from[first + i];
    T* const place = to + first;
    SUPERTICKETS_LAUNCH(kernel, 1, 64, 0, stream, place, batch, size);
  }
}

// Sizes of the segments from those of their pieces; a thread for each segment.
__global__ void measure_segments(Tables t) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t s = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; s < t.segment_count;
       s += stride) {
    int64_t low = 0, high = t.piece_count;  // the first piece of the segment
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (t.pieces[middle].segment < s) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    Segment& segment = t.segments[s];
    segment.first_chunk = t.pieces[low].first_chunk;
    segment.chunks = segment.entries = 0;
    for (; low < t.piece_count && t.pieces[low].segment == s; ++low) {
      segment.chunks += (t.pieces[low].count + kChunk - 1) / kChunk;
      segment.entries += t.pieces[low].count;
    }
    segment.missing = segment.surplus = segment.grown = segment.pruned = 0;
  }
}

__global__ void write_keep(Tables t, Batch<int64_t> keep, int64_t first, int count) {
  const int i = threadIdx.x;
  if (i < count) t.segments[first + i].all.keep = keep.values[i];
}

// +inf where nothing is kept.
template <class Score>
__device__ typename Score::Bits threshold(const Ranking& ranking, bool by_magnitude) {
  if (ranking.keep == 0) return Score::kInfinity;
  return Score::score(static_cast<typename Score::Bits>(ranking.key), by_magnitude);
}

template <class Score>
__global__ void results_of(Tables t, bool by_magnitude, UpdateResults to) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t s = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; s < t.segment_count;
       s += stride) {
    const Segment& segment = t.segments[s];
    static_cast<typename Score::Bits*>(to.threshold)[s] =
        threshold<Score>(segment.all, by_magnitude);
    to.grown[s] = segment.grown;
    to.pruned[s] = segment.pruned;
    to.wanted[s] = segment.missing;
  }
}

template <class Score>
__global__ void rigl_results_of(Tables t, RiglResults to) {
  const Segment& segment = t.segments[0];
  *static_cast<typename Score::Bits*>(to.grown_grad) = threshold<Score>(segment.by_state[0], true);
  *static_cast<typename Score::Bits*>(to.kept_weight) = threshold<Score>(segment.by_state[1], true);
  *to.swaps = segment.grown;
}

}  // namespace

int64_t table_bytes(int64_t pieces, int64_t segments, int64_t chunks) {
  const Tables end = tables_in(nullptr, pieces, segments, chunks);
  return reinterpret_cast<int64_t>(end.ties) + 2 * chunks * int64_t{sizeof(int64_t)};
}

Tables tables_in(void* memory, int64_t pieces, int64_t segments, int64_t chunks) {
  auto at = reinterpret_cast<intptr_t>(memory);
  const auto take = [&](int64_t bytes) {
    const intptr_t place = at;
    at += aligned(bytes);
    return place;
  };
  Tables t{};
  t.piece_count = pieces;
  t.segment_count = segments;
  t.chunk_count = chunks;
  t.pieces = reinterpret_cast<Piece*>(take(pieces * int64_t{sizeof(Piece)}));
  t.segments = reinterpret_cast<Segment*>(take(segments * int64_t{sizeof(Segment)}));
  const int64_t bins = segments * 2 * kBins;
  t.histograms =
      reinterpret_cast<unsigned long long*>(take(bins * int64_t{sizeof(unsigned long long)}));
  t.ties = reinterpret_cast<int64_t*>(at);
  return t;
}

void write_tables(const Tables& t, const Piece* pieces, const int64_t* keep, cudaStream_t stream) {
  write_list(t.pieces, pieces, t.piece_count, stream);
  const unsigned blocks = blocks_for((t.segment_count + 127) / 128, 8);
  SUPERTICKETS_LAUNCH(measure_segments, blocks, 128, 0, stream, t);
  for (int64_t first = 0; first < t.segment_count; first += kPerLaunch) {
    Batch<int64_t> batch{};
    const int64_t left = t.segment_count - first;
    const int size = static_cast<int>(left < kPerLaunch ? left : kPerLaunch);
    for (int i = 0; i < size; ++i) batch.values[i] = keep[first + i];
    SUPERTICKETS_LAUNCH(write_keep, 1, 64, 0, stream, t, batch, first, size);
  }
}

void write_results(const SelectParams& p, const UpdateResults& results, cudaStream_t stream) {
  with_score(p.storage, [&](auto score) {
    const auto kernel = results_of<decltype(score)>;
    const unsigned blocks = blocks_for((p.tables.segment_count + 127) / 128, 8);
    SUPERTICKETS_LAUNCH(kernel, blocks, 128, 0, stream, p.tables, p.by_magnitude, results);
  });
}

void write_rigl_results(const SelectParams& p, const RiglResults& results, cudaStream_t stream) {
  with_score(p.storage, [&](auto score) {
    const auto kernel = rigl_results_of<decltype(score)>;
    SUPERTICKETS_LAUNCH(kernel, 1, 1, 0, stream, p.tables, results);
  });
}

}  // namespace supertickets::cuda
