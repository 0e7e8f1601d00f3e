// forward and grad_input: tile by tile, block by block, all planes over each block.
#include <algorithm>

#include "masked_conv2d_work.h"

namespace supertickets {
namespace {

// Planes are cut so that the sums of a piece stay in the second cache and every thread has work.
// Nothing of this changes a result: each output is summed by one thread in one order.
int64_t parts_of(const Work& work, int64_t planes, int64_t bytes_per_line) {
  constexpr int64_t kSumBytes = int64_t{448} << 10;
  const int64_t bytes = planes * work.tiling.lines() * kLine * bytes_per_line;
  const int64_t pieces = work.groups() * static_cast<int64_t>(work.pieces.size());
  const int64_t threads = work.params.parallel.threads;
  const int64_t most = std::max<int64_t>(1, planes / kLine);
  int64_t parts = std::clamp<int64_t>((bytes + kSumBytes - 1) / kSumBytes, 1, most);
  // Every part fills the buffer anew: no more of them than it takes to share the work evenly.
  while (parts < most && pieces * parts % threads != 0 && pieces * parts < 4 * threads) ++parts;
  return parts;
}
// Sums one piece of the map for one part of the planes.
template <class A>
class Summing {
 public:
  Summing(const Work& work, const Packed& packed)
      : work_(work),
        packed_(packed),
        window_(work.correlation, work.tiling, work.in, work.last_width),
        ahead_window_(work.correlation, work.tiling, work.in, work.last_width) {
    static thread_local Scratch scratch;
    const Tiling& t = work.tiling;
    int64_t pairs = 0;
    for (int64_t s = 0; s < packed.header().sections; ++s) {
      for (int64_t part = 0; part < work.parts; ++part) {
        pairs = std::max(pairs, pairs_of(packed.sections()[s], part, work.parts).count);
      }
    }
    // the last vectors of a tile may read on for a line
    const int64_t buffer = t.block * t.channel_pitch + kLine;
    buffer_ = scratch.get<A>(buffer + 2 * pairs * t.lines() * kLine);
    sums_ = buffer_ + buffer;
    // In lanes of the accumulator's type, finished sums go straight to the output.
    direct_ =
        work.params.layout == Layout::kLanes && element_bytes(work.params.storage) == sizeof(A);
  }

  void tasks(int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const Tile tile = tile_of(task);
      window_.move_to(tile.piece->row, tile.piece->column);
      const bool more = task + 1 < end;
      ahead_ = more ? tile_of(task + 1) : tile;
      if (more) ahead_window_.move_to(ahead_.piece->row, ahead_.piece->column);
      for (int64_t s = 0; s < packed_.header().sections; ++s) {
        section(packed_.sections()[s], tile, more && s == packed_.header().sections - 1);
      }
    }
  }

 private:
  struct Tile {
    int64_t image = 0, part = 0;
    const Piece* piece = nullptr;
  };
  Tile tile_of(int64_t task) const {
    const int64_t rest = task / work_.parts, pieces = static_cast<int64_t>(work_.pieces.size());
    return {rest / pieces, task % work_.parts, &work_.pieces[rest % pieces]};
  }

  // `leads_on`: the next thing to be read is the first block of the tile ahead.
  void section(const Section& section, const Tile& tile, bool leads_on) {
    const Pairs pairs = pairs_of(section, tile.part, work_.parts);
    if (pairs.count == 0) return;
    const int64_t image = tile.image;
    const Piece& piece = *tile.piece;
    const Tiling& t = work_.tiling;
    for (int64_t b = 0; b < section.blocks; ++b) {
      const Block& block = packed_.blocks()[section.block + b];
      const FillJob filling = window_.job(image, block, work_.params, buffer_);
      work_.fill(filling);
      const bool last = b == section.blocks - 1;
      RunJob<A> job{};
      job.in = buffer_;
      job.row_step = t.row_step;
      job.rows = t.lanes ? piece.rows : 1;
      job.columns = t.lanes ? piece.columns : piece.rows;
      job.runs = packed_.runs() + block.run + pairs.first;
      job.count = pairs.count;
      job.planes = pairs.planes;
      job.taps = packed_.taps();
      const A* bias = static_cast<const A*>(work_.params.bias);
      job.bias = bias == nullptr ? nullptr : bias + pairs.plane;
      job.first = b == 0;
      job.sums = sums_;
      if (last && direct_) finish_direct(job, image, piece, pairs);
      const MaskedConv2dParams& params = work_.params;
      if (!last) {
        const Block& next = packed_.blocks()[section.block + b + 1];
        job.prefetch = ahead_of_fill_.look(window_.job(image, next, params, buffer_), params);
      } else if (leads_on) {
        job.prefetch = ahead_of_fill_.look(
            ahead_window_.job(ahead_.image, packed_.blocks()[0], params, buffer_), params);
      }
      run(job);
    }
    if (!direct_) emit(image, piece, pairs);
  }

  void run(const RunJob<A>& job) { Kernels<A>::run(work_.kernels(), job); }

  int64_t output_offset(int64_t image, const Piece& piece, const Pairs& pairs) const {
    const Correlation& c = work_.correlation;
    const Strided& out = work_.out;
    const int64_t step = work_.params.layout == Layout::kImages ? kLine : 1;
    return image * step * out.stride_batch + pairs.plane * out.stride_channel +
           (c.y.out_first + piece.row * c.y.out_step) * out.stride_height +
           (c.x.out_first + piece.column * c.x.out_step) * out.stride_width;
  }

  void finish_direct(RunJob<A>& job, int64_t image, const Piece& piece, const Pairs& pairs) const {
    const Strided& out = work_.out;
    const int64_t offset = output_offset(image, piece, pairs);
    job.out = {static_cast<A*>(out.data) + offset, out.stride_channel,
               work_.correlation.y.out_step * out.stride_height,
               work_.correlation.x.out_step * out.stride_width};
    const A* residual = static_cast<const A*>(work_.params.residual);
    job.residual = residual == nullptr ? nullptr : residual + offset;
    job.relu = work_.params.relu;
    job.stream = streams() && reinterpret_cast<uintptr_t>(out.data) % 64 == 0;
  }

  // From this size on, an output does not stay in the caches until it is read.
  bool streams() const {
    constexpr int64_t kStreamBytes = int64_t{8} << 20;
    const Strided& out = work_.out;
    return out.batch * out.stride_batch * element_bytes(work_.params.storage) >= kStreamBytes;
  }

  void emit(int64_t image, const Piece& piece, const Pairs& pairs) {
    const Correlation& c = work_.correlation;
    const Strided& out = work_.out;
    const Tiling& t = work_.tiling;
    const int64_t offset = output_offset(image, piece, pairs) * element_bytes(work_.params.storage);
    const auto at = [&](const void* data) {
      return data == nullptr ? nullptr : static_cast<const char*>(data) + offset;
    };
    EmitJob job{};
    job.sums = sums_;
    job.planes = pairs.planes;
    job.rows = piece.rows;
    job.columns = piece.columns;
    job.to = static_cast<char*>(out.data) + offset;
    job.residual = at(work_.params.residual);
    job.relu = work_.params.relu;
    job.plane_step = out.stride_channel;
    job.row_step = c.y.out_step * out.stride_height;
    job.column_step = c.x.out_step * out.stride_width;
    job.image_step = out.stride_batch;
    job.images = std::min(kLine, out.batch - image * kLine);
    job.stream = streams();
    if (t.lanes) return work_.emit(job);
    job.fold = t.fold;
    job.fold_step = t.rows * job.row_step;
    emit_mask_.resize(t.fold * piece.rows);
    for (int64_t i = 0; i < t.fold; ++i) {
      for (int64_t r = 0; r < piece.rows; ++r) {
        const int64_t row = piece.row + i * t.rows + r;
        int64_t width = std::min(t.segment(), c.x.count - piece.column);
        if (row == c.y.count - 1) width = std::min(width, work_.last_width);
        emit_mask_[i * piece.rows + r] = row < c.y.count ? (uint32_t{1} << width) - 1 : 0;
      }
    }
    job.row_mask = emit_mask_.data();
    work_.emit(job);
  }

  const Work& work_;
  const Packed& packed_;
  Window window_, ahead_window_;
  Tile ahead_;
  A* buffer_;
  A* sums_;
  bool direct_;
  Ahead ahead_of_fill_;
  std::vector<uint32_t> emit_mask_;
};

}  // namespace

template <class A>
void correlate(Work& work, const void* memory) {
  const Packed packed(memory);
  int64_t planes = 0;
  for (int64_t s = 0; s < packed.header().sections; ++s) {
    planes = std::max(planes, packed.sections()[s].planes);
  }
  work.parts = parts_of(work, planes, sizeof(A));
  parallel_for(work.params.parallel, work.tasks(), 1,
               [&](int64_t begin, int64_t end) { Summing<A>(work, packed).tasks(begin, end); });
}

template void correlate<float>(Work&, const void*);
template void correlate<double>(Work&, const void*);

}  // namespace supertickets
