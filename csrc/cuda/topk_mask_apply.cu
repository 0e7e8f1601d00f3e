// What follows from the thresholds: new masks, counts of changes, limits on them.
#include "mask_entries.cuh"

namespace supertickets::cuda {
namespace {

// Whether entries are in a ranking's set, round by round of a chunk, in order of their places.
struct Decision {
  uint64_t key;
  int64_t ties;   // entries of that key in the set
  int64_t place;  // of the next entry of that key
  bool nothing, split;

  __device__ Decision(const Ranking& ranking, const int64_t* ties_before)
      : key(ranking.key),
        ties(ranking.ties),
        place(0),
        nothing(ranking.keep == 0),
        split(!nothing && ranking.ties < ranking.there) {
    if (split) place = *ties_before;
  }

  // Calls by every thread of the block; `tied` of this thread's entries have the key. Returns the
  // place of the first.
  __device__ int64_t advance(int tied) {
    if (!split) return 0;
    const auto sums = block_prefix(tied);
    const int64_t first = place + sums.before;
    place += sums.all;
    return first;
  }
  // `at` is the place of the entry among those of the key.
  __device__ bool inside(uint64_t other, int64_t at) const {
    return !nothing && (other > key || (other == key && (!split || at < ties)));
  }
};

// kWrite, kCount and kReplace ask the ranking of all entries, kUpdate those by state. All but
// kWrite read the masks, all but kCount write them, kCount and kReplace count changes.
enum class Task { kWrite, kCount, kReplace, kUpdate };

struct Counts {
  int64_t missing = 0, surplus = 0;
};

template <class Score, Task kTask>
__device__ Counts apply_to_chunk(const Tables& t, const Piece& piece, int64_t chunk,
                                 bool by_magnitude) {
  constexpr bool kState = kTask == Task::kUpdate;
  constexpr int kCount = kEach<Score>;
  const Segment& segment = t.segments[piece.segment];
  Decision one(kState ? segment.by_state[0] : segment.all, t.ties + chunk);
  Decision two(kState ? segment.by_state[1] : segment.all,
               t.ties + (kState ? t.chunk_count : 0) + chunk);
  Counts counts;
  const int64_t begin = (chunk - piece.first_chunk) * kChunk;
  const int64_t end = begin + kChunk < piece.count ? begin + kChunk : piece.count;
  for (int64_t round = begin; round < end; round += kThreads * kCount) {
    const int64_t first = round + threadIdx.x * kCount;
    const auto entries = load_entries<Score, kTask != Task::kWrite>(piece, first, by_magnitude);
    const auto ties_with = [&](const Decision& decision, bool active, int i) {
      return entries.exists(i) && entries.active[i] == active && entries.keys[i] == decision.key;
    };
    int tied = 0, tied_active = 0;
    for (int i = 0; i < kCount; ++i) {
      tied += ties_with(one, kState ? false : entries.active[i], i);
      if constexpr (kState) tied_active += ties_with(two, true, i);
    }
    int64_t place = one.advance(tied), place_active = kState ? two.advance(tied_active) : 0;
    Pack<uint8_t, kCount> mask;
    for (int i = 0; i < kCount; ++i) {
      const bool active = entries.active[i], ranked_active = kState && active;
      const bool in = ranked_active ? two.inside(entries.keys[i], place_active)
                                    : one.inside(entries.keys[i], place);
      place += ties_with(one, kState ? false : active, i);
      if constexpr (kState) place_active += ties_with(two, true, i);
      mask.values[i] = in;
      if (!entries.exists(i)) continue;
      counts.missing += in && !active;
      counts.surplus += !in && active;
    }
    if constexpr (kTask != Task::kCount) {
      store(reinterpret_cast<uint8_t*>(piece.mask), first, piece.count, mask);
    }
  }
  return counts;
}

template <class Score, Task kTask>
__global__ void __launch_bounds__(kThreads, 2) apply(Tables t, bool by_magnitude) {
  for (int64_t chunk = blockIdx.x; chunk < t.chunk_count; chunk += gridDim.x) {
    const Piece piece = t.pieces[piece_of_chunk(t, chunk)];
    const Counts counts = apply_to_chunk<Score, kTask>(t, piece, chunk, by_magnitude);
    if constexpr (kTask == Task::kCount || kTask == Task::kReplace) {
      const int64_t missing = warp_sum(counts.missing), surplus = warp_sum(counts.surplus);
      if (threadIdx.x % 32 == 0) {
        Segment& segment = t.segments[piece.segment];
        auto* to = reinterpret_cast<unsigned long long*>(&segment.missing);
        if (missing > 0) atomicAdd(to, static_cast<unsigned long long>(missing));
        to = reinterpret_cast<unsigned long long*>(&segment.surplus);
        if (surplus > 0) atomicAdd(to, static_cast<unsigned long long>(surplus));
      }
    }
  }
}

__device__ int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// From what is wanted to what is done; a change of the number of ones is carried out in full.
__global__ void limit_swaps(Tables t, int64_t most, double fraction) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t s = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; s < t.segment_count;
       s += stride) {
    Segment& segment = t.segments[s];
    const int64_t wanted = smaller(segment.missing, segment.surplus);
    const auto share = static_cast<int64_t>(ceil(static_cast<double>(wanted) * fraction));
    const int64_t undone = wanted - smaller(smaller(wanted, most), share);
    segment.grown = segment.missing - undone;
    segment.pruned = segment.surplus - undone;
    const int64_t active = segment.all.keep - segment.missing + segment.surplus;
    segment.by_state[0].keep = segment.grown;
    segment.by_state[1].keep = active - segment.pruned;
  }
}

// Active entries, counted as surplus.
__global__ void __launch_bounds__(kThreads) count_active(Tables t) {
  for (int64_t chunk = blockIdx.x; chunk < t.chunk_count; chunk += gridDim.x) {
    const Piece piece = t.pieces[piece_of_chunk(t, chunk)];
    const int64_t begin = (chunk - piece.first_chunk) * kChunk;
    const int64_t end = begin + kChunk < piece.count ? begin + kChunk : piece.count;
    int64_t active = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) active += piece.mask[i];
    active = warp_sum(active);
    auto* to = reinterpret_cast<unsigned long long*>(&t.segments[piece.segment].surplus);
    if (threadIdx.x % 32 == 0 && active > 0) {
      atomicAdd(to, static_cast<unsigned long long>(active));
    }
  }
}

__global__ void plan_rigl(Tables t, int64_t swaps) {
  Segment& segment = t.segments[0];
  const int64_t active = segment.surplus;
  const int64_t done = smaller(swaps, smaller(active, segment.entries - active));
  segment.grown = segment.pruned = done;
  segment.by_state[0].keep = done;
  segment.by_state[1].keep = active - done;
}

template <Task kTask>
void apply_all(const SelectParams& p, cudaStream_t stream) {
  with_score(p.storage, [&](auto score) {
    const auto kernel = apply<decltype(score), kTask>;
    const unsigned blocks = blocks_for(p.tables.chunk_count, 8);
    SUPERTICKETS_LAUNCH(kernel, blocks, kThreads, 0, stream, p.tables, p.by_magnitude);
  });
}

}  // namespace

void write_masks(const SelectParams& p, cudaStream_t stream) {
  if (p.tables.chunk_count > 0) apply_all<Task::kWrite>(p, stream);
}

void update_masks(const SelectParams& p, int64_t most, double fraction, cudaStream_t stream) {
  if (p.tables.chunk_count == 0) return;
  const bool bounded = most < kUnbounded || fraction < 1;
  if (bounded) {
    apply_all<Task::kCount>(p, stream);
  } else {
    apply_all<Task::kReplace>(p, stream);
  }
  const unsigned blocks = blocks_for((p.tables.segment_count + 127) / 128, 8);
  SUPERTICKETS_LAUNCH(limit_swaps, blocks, 128, 0, stream, p.tables, most, fraction);
  if (!bounded) return;
  select(p, RankedBy::kState, stream);
  apply_all<Task::kUpdate>(p, stream);
}

void rigl_update(const SelectParams& p, int64_t swaps, cudaStream_t stream) {
  const unsigned blocks = blocks_for(p.tables.chunk_count, 8);
  SUPERTICKETS_LAUNCH(count_active, blocks, kThreads, 0, stream, p.tables);
  SUPERTICKETS_LAUNCH(plan_rigl, 1, 1, 0, stream, p.tables, swaps);
  select(p, RankedBy::kState, stream);
  if (p.tables.chunk_count > 0) apply_all<Task::kUpdate>(p, stream);
}

}  // namespace supertickets::cuda
