// The search for thresholds: counts of digits, one digit after the other, then places of ties.
#include "mask_entries.cuh"

namespace supertickets::cuda {
namespace {

// Bits of the key from `shift` on are known after a pass.
struct Digit {
  int shift, width;
};

Digit digit_of_pass(int bits, int pass) {
  const int above = bits - kDigitBits * pass;
  const int shift = above > kDigitBits ? above - kDigitBits : 0;
  return {shift, above - shift};
}

__device__ Ranking& ranking_of(Segment& segment, bool by_state, int state) {
  return by_state ? segment.by_state[state] : segment.all;
}

// Nothing is known yet.
__global__ void start_rankings(Tables t, bool by_state) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t s = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; s < t.segment_count;
       s += stride) {
    for (int state = 0; state < (by_state ? 2 : 1); ++state) {
      Ranking& ranking = ranking_of(t.segments[s], by_state, state);
      ranking.key = 0;
      ranking.ties = ranking.keep;
      ranking.there = 0;
    }
  }
}

// Each block takes neighbouring chunks, and adds its counts to the segment's when that changes.
template <class Score, bool kState>
__global__ void __launch_bounds__(kThreads) count_digits(Tables t, bool by_magnitude, Digit digit) {
  constexpr int kStates = kState ? 2 : 1;
  __shared__ unsigned bins[kStates * kBins];
  const int64_t begin = t.chunk_count * blockIdx.x / gridDim.x;
  const int64_t end = t.chunk_count * (blockIdx.x + int64_t{1}) / gridDim.x;
  const int high = digit.shift + digit.width;
  for (int i = threadIdx.x; i < kStates * kBins; i += kThreads) bins[i] = 0;
  __syncthreads();
  int64_t place = begin < end ? piece_of_chunk(t, begin) : 0;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    while (place + 1 < t.piece_count && t.pieces[place + 1].first_chunk <= chunk) ++place;
    const Piece piece = t.pieces[place];
    Segment& segment = t.segments[piece.segment];
    for_rounds<Score>(piece, chunk, [&](int64_t first) {
      const auto entries = load_entries<Score, kState>(piece, first, by_magnitude);
      for (int i = 0; i < kEach<Score>; ++i) {
        if (!entries.exists(i)) continue;
        const int state = kState && entries.active[i] ? 1 : 0;
        const uint64_t key = entries.keys[i];
        const uint64_t known = ranking_of(segment, kState, state).key;
        if (high < 64 && (key ^ known) >> high != 0) continue;
        atomicAdd(&bins[state * kBins + (key >> digit.shift & ((1u << digit.width) - 1))], 1u);
      }
    });
    const bool last = chunk + 1 == end || chunk + 1 == segment.first_chunk + segment.chunks;
    if (!last) continue;
    __syncthreads();
    unsigned long long* to = t.histograms + piece.segment * 2 * kBins;
    for (int i = threadIdx.x; i < kStates * kBins; i += kThreads) {
      if (bins[i] != 0) atomicAdd(&to[i], static_cast<unsigned long long>(bins[i]));
      bins[i] = 0;
    }
    __syncthreads();
  }
}

// A block for each ranking finds the digit, from the top, that holds the last entry of the set, and
// clears the counts.
__global__ void __launch_bounds__(kThreads) pick_digit(Tables t, bool by_state, Digit digit) {
  constexpr int kBinsEach = kBins / kThreads;
  Ranking& ranking = ranking_of(t.segments[blockIdx.x], by_state, blockIdx.y);
  unsigned long long* bins = t.histograms + (int64_t{blockIdx.x} * 2 + blockIdx.y) * kBins;
  int64_t counts[kBinsEach], sum = 0;
  for (int i = 0; i < kBinsEach; ++i) {
    const int bin = kBins - 1 - (static_cast<int>(threadIdx.x) * kBinsEach + i);
    counts[i] = static_cast<int64_t>(bins[bin]);
    bins[bin] = 0;
    sum += counts[i];
  }
  const int64_t ties = ranking.ties;
  int64_t above = block_prefix(sum).before;  // all threads have read `ties` when this returns
  for (int i = 0; i < kBinsEach; ++i) {
    const int bin = kBins - 1 - (static_cast<int>(threadIdx.x) * kBinsEach + i);
    if (above < ties && ties <= above + counts[i]) {
      ranking.key |= static_cast<uint64_t>(bin) << digit.shift;
      ranking.ties = ties - above;
      ranking.there = counts[i];
    }
    above += counts[i];
  }
}

// Whether only some of the entries that have the threshold's key are in the set.
__device__ bool splits_ties(const Ranking& ranking) {
  return ranking.keep > 0 && ranking.ties < ranking.there;
}

// A block for each chunk counts its entries of the threshold's key, where places matter.
template <class Score, bool kState>
__global__ void __launch_bounds__(kThreads) count_ties(Tables t, bool by_magnitude) {
  for (int64_t chunk = blockIdx.x; chunk < t.chunk_count; chunk += gridDim.x) {
    const Piece piece = t.pieces[piece_of_chunk(t, chunk)];
    Segment& segment = t.segments[piece.segment];
    const Ranking& one = ranking_of(segment, kState, 0);
    const Ranking& two = ranking_of(segment, kState, kState ? 1 : 0);
    if (!splits_ties(one) && !splits_ties(two)) continue;
    int64_t ties = 0, active_ties = 0;
    for_rounds<Score>(piece, chunk, [&](int64_t first) {
      const auto entries = load_entries<Score, kState>(piece, first, by_magnitude);
      for (int i = 0; i < kEach<Score>; ++i) {
        if (!entries.exists(i)) continue;
        const bool active = kState && entries.active[i];
        ties += !active && entries.keys[i] == one.key;
        active_ties += active && entries.keys[i] == two.key;
      }
    });
    const int64_t all = block_prefix(ties).all;
    if (threadIdx.x == 0) t.ties[chunk] = all;
    if constexpr (kState) {
      const int64_t all_active = block_prefix(active_ties).all;
      if (threadIdx.x == 0) t.ties[t.chunk_count + chunk] = all_active;
    }
  }
}

// A block for each ranking replaces the counts of chunks by those of all chunks before.
__global__ void __launch_bounds__(kThreads) place_ties(Tables t, bool by_state) {
  Segment& segment = t.segments[blockIdx.x];
  if (!splits_ties(ranking_of(segment, by_state, blockIdx.y))) return;
  int64_t* ties = t.ties + int64_t{blockIdx.y} * t.chunk_count + segment.first_chunk;
  int64_t before = 0;
  for (int64_t first = 0; first < segment.chunks; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const auto sums = block_prefix(i < segment.chunks ? ties[i] : int64_t{0});
    if (i < segment.chunks) ties[i] = before + sums.before;
    before += sums.all;
  }
}

template <class Score, bool kState>
void select_as(const SelectParams& p, cudaStream_t stream) {
  const Tables& t = p.tables;
  const auto count = count_digits<Score, kState>;
  const auto count_equal = count_ties<Score, kState>;
  const dim3 rankings(static_cast<unsigned>(t.segment_count), kState ? 2 : 1);
  const unsigned blocks = blocks_for(t.chunk_count, 8);
  const size_t bytes = static_cast<size_t>(t.segment_count) * 2 * kBins * sizeof(*t.histograms);
  cudaMemsetAsync(t.histograms, 0, bytes, stream);
  const unsigned starters = blocks_for((t.segment_count + kThreads - 1) / kThreads, 8);
  SUPERTICKETS_LAUNCH(start_rankings, starters, kThreads, 0, stream, t, kState);
  for (int pass = 0; pass * kDigitBits < Score::kBits; ++pass) {
    const Digit digit = digit_of_pass(Score::kBits, pass);
    SUPERTICKETS_LAUNCH(count, blocks, kThreads, 0, stream, t, p.by_magnitude, digit);
    SUPERTICKETS_LAUNCH(pick_digit, rankings, kThreads, 0, stream, t, kState, digit);
  }
  SUPERTICKETS_LAUNCH(count_equal, blocks, kThreads, 0, stream, t, p.by_magnitude);
  SUPERTICKETS_LAUNCH(place_ties, rankings, kThreads, 0, stream, t, kState);
}

}  // namespace

void select(const SelectParams& p, RankedBy by, cudaStream_t stream) {
  if (p.tables.chunk_count == 0) return;
  with_score(p.storage, [&](auto score) {
    if (by == RankedBy::kAll) {
      select_as<decltype(score), false>(p, stream);
    } else {
      select_as<decltype(score), true>(p, stream);
    }
  });
}

}  // namespace supertickets::cuda
