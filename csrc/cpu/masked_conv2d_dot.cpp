// grad_weight: the tiles of the forward pass, with grad_output in the place of the sums.
#include <algorithm>

#include "masked_conv2d_pattern.h"

namespace supertickets {
namespace {

// The correlation that reads one line of grad_output per output line.
Correlation identity_of(const Correlation& c, int64_t planes) {
  Correlation same;
  for (auto [axis, from] : {std::pair{&same.y, &c.y}, std::pair{&same.x, &c.x}}) {
    axis->count = axis->in_size = from->count;
    axis->shift = axis->kernel = {0};
  }
  same.group_in = same.group_out = planes;
  return same;
}

// The tiling of grad_output that goes with one of x.
Tiling identity_tiling(const Correlation& same, const Tiling& tiling) {
  Tiling t = tiling;
  const auto count = [](int64_t n) {
    Slots slots;
    for (int64_t i = 0; i < n; ++i) slots.position.push_back(i);
    slots.tap = {0};
    return slots;
  };
  t.y = count(tiling.rows);
  t.x = count(tiling.lanes ? tiling.columns : 1);
  t.block = same.group_in;
  return t;
}

// grad_weight of one chunk of the pieces, in the order of the packed nonzeros.
template <class A>
class Dotting {
 public:
  Dotting(const Work& work, const Packed& packed, const Strided& grad)
      : work_(work),
        packed_(packed),
        grad_(grad),
        same_(identity_of(work.correlation, work.correlation.planes())),
        grad_tiling_(identity_tiling(same_, work.tiling)),
        full_grad_tiling_(grad_tiling_),
        window_(work.correlation, work.tiling, work.in, work.last_width),
        grad_window_(same_, grad_tiling_, grad_, work.last_width),
        ahead_window_(work.correlation, work.tiling, work.in, work.last_width),
        ahead_grad_window_(same_, full_grad_tiling_, grad_, work.last_width) {
    static thread_local Scratch scratch;
    const Tiling& t = work.tiling;
    const int64_t buffer = t.block * t.channel_pitch + kLine;
    buffer_ = scratch.get<A>(buffer + work.correlation.planes() * t.lines() * kLine);
    grad_buffer_ = buffer_ + buffer;
  }

  // The tiles [begin, end) of all groups, for one part of the planes.
  void tiles(int64_t begin, int64_t end, int64_t part, A* values) {
    const int64_t pieces = static_cast<int64_t>(work_.pieces.size());
    for (int64_t tile = begin; tile < end; ++tile) {
      const Piece& piece = work_.pieces[tile % pieces];
      shrink_grad(piece);
      window_.move_to(piece.row, piece.column);
      grad_window_.move_to(piece.row, piece.column);
      const int64_t next = std::min(tile + 1, end - 1);
      const Piece& ahead = work_.pieces[next % pieces];
      ahead_window_.move_to(ahead.row, ahead.column);
      ahead_grad_window_.move_to(ahead.row, ahead.column);
      for (int64_t s = 0; s < packed_.header().sections; ++s) {
        section(packed_.sections()[s], tile / pieces, next / pieces, piece, part, values);
      }
    }
  }

 private:
  // The last tiles are smaller: their grad_output is packed as tightly as the kernel expects it.
  void shrink_grad(const Piece& piece) {
    grad_tiling_.y.position.resize(piece.rows);
    grad_tiling_.x.position.resize(work_.tiling.lanes ? piece.columns : 1);
    for (size_t i = 0; i < grad_tiling_.y.position.size(); ++i) grad_tiling_.y.position[i] = i;
    for (size_t i = 0; i < grad_tiling_.x.position.size(); ++i) grad_tiling_.x.position[i] = i;
    grad_tiling_.channel_pitch = piece.rows * piece.columns * kLine;
  }

  void section(const Section& section, int64_t image, int64_t next_image, const Piece& piece,
               int64_t part, A* values) {
    const Pairs pairs = pairs_of(section, part, work_.parts);
    if (pairs.count == 0) return;
    const Tiling& t = work_.tiling;
    const MaskedConv2dParams& params = work_.params;
    const Block planes{pairs.plane, pairs.planes, 0};
    work_.fill(grad_window_.job(image, planes, params, grad_buffer_));
    for (int64_t b = 0; b < section.blocks; ++b) {
      const Block* block = packed_.blocks() + section.block + b;
      const bool last = b == section.blocks - 1;
      work_.fill(window_.job(image, *block, params, buffer_));
      DotJob<A> job{};
      job.in = buffer_;
      job.row_step = t.row_step;
      job.rows = t.lanes ? piece.rows : 1;
      job.columns = t.lanes ? piece.columns : piece.rows;
      job.runs = packed_.runs() + block->run + pairs.first;
      job.count = pairs.count;
      job.planes = pairs.planes;
      job.taps = packed_.taps();
      job.grad = grad_buffer_;
      job.values = values;
      job.prefetch = ahead_of_fill_.look(
          last ? ahead_window_.job(next_image, packed_.blocks()[section.block], params, buffer_)
               : window_.job(image, block[1], params, buffer_),
          params);
      if (last) {
        job.prefetch_grad = ahead_of_grad_.look(
            ahead_grad_window_.job(next_image, planes, params, grad_buffer_), params);
      }
      Kernels<A>::dot(work_.kernels(), job);
    }
  }

  const Work& work_;
  const Packed& packed_;
  Strided grad_;
  Correlation same_;
  Tiling grad_tiling_;
  Tiling full_grad_tiling_;
  Window window_, grad_window_, ahead_window_, ahead_grad_window_;
  Ahead ahead_of_fill_, ahead_of_grad_;
  A* buffer_;
  A* grad_buffer_;
};

// Adds up the chunks and puts each value in its place.
template <class A>
void scatter_values(const Packed& packed, const std::vector<A>& values, int64_t chunks,
                    A* grad_weight, const Parallel& parallel) {
  const PackedHeader& header = packed.header();
  const auto sum = [&](int64_t i) {
    double total = 0;
    for (int64_t c = 0; c < chunks; ++c) total += values[c * header.nonzeros + i];
    return static_cast<A>(total);
  };
  parallel_for(parallel, header.runs, 256, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Run& run = packed.runs()[r];
      int64_t value = run.values;
      const auto* both = reinterpret_cast<const PairTap<int32_t>*>(packed.taps() + run.taps);
      for (int64_t i = 0; i < run.both; ++i, ++both) {
        grad_weight[both->first] = sum(value++);
        grad_weight[both->second] = sum(value++);
      }
      const auto* tap = reinterpret_cast<const Tap<int32_t>*>(both);
      for (int64_t i = 0; i < run.first + run.second; ++i, ++tap) {
        grad_weight[tap->value] = sum(value++);
      }
    }
  });
}

}  // namespace

template <class A>
void dot_products(Work& work, A* grad_weight) {
  const MaskedConv2dParams& params = work.params;
  const std::byte* kept = nullptr;
  if (params.pattern != nullptr) kept = Pattern(params.pattern).part(work, 0, sizeof(A));
  std::unique_ptr<std::byte[]> memory;
  if (kept == nullptr) {
    memory = pack_indices(work.correlation, work.tiling, params.mask, sizeof(A), params.parallel);
    kept = memory.get();
  }
  const Packed packed(kept);
  // Chunks depend on the shape alone, so that the result does not depend on the threads.
  constexpr int64_t kChunks = 8;
  const int64_t pieces = static_cast<int64_t>(work.pieces.size());
  const int64_t steps = work.groups() * pieces;
  const int64_t chunks = std::clamp<int64_t>(steps / 4, 1, kChunks);
  work.parts = std::clamp<int64_t>((2 * params.parallel.threads + chunks - 1) / chunks, 1,
                                   params.parallel.threads == 1 ? 1 : 16);
  std::vector<A> values(chunks * packed.header().nonzeros, A{0});
  parallel_for(params.parallel, chunks * work.parts, 1, [&](int64_t begin, int64_t end) {
    Dotting<A> dotting(work, packed, work.out);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / work.parts, part = task % work.parts;
      A* mine = values.data() + chunk * packed.header().nonzeros;
      dotting.tiles(steps * chunk / chunks, steps * (chunk + 1) / chunks, part, mine);
    }
  });
  scatter_values(packed, values, chunks, grad_weight, params.parallel);
}

template void dot_products<float>(Work&, float*);
template void dot_products<double>(Work&, double*);

}  // namespace supertickets
