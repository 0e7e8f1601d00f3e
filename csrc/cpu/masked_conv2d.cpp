// Drives the kernels: image by image (or group by group), tile by tile, block by block.
#include "masked_conv2d.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "masked_conv2d_geometry.h"
#include "masked_conv2d_pack.h"

namespace supertickets {
namespace {

// Memory that a thread keeps from call to call, aligned for every vector: fresh pages would cost
// more than a small convolution.
class Scratch {
 public:
  template <class A>
  A* get(int64_t elements) {
    constexpr size_t kHugePage = size_t{2} << 20;
    const size_t bytes = (static_cast<size_t>(elements) * sizeof(A) / kHugePage + 1) * kHugePage;
    if (bytes > size_) {
      memory_.reset(std::aligned_alloc(kHugePage, bytes));
      size_ = memory_ == nullptr ? 0 : bytes;
      if (memory_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      madvise(memory_.get(), bytes, MADV_HUGEPAGE);  // a wish, not a need
#endif
    }
    return static_cast<A*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

template <class A>
struct Kernels;
template <>
struct Kernels<float> {
  static void run(const MaskedConv2dKernels& k, const RunJob<float>& job) { k.run_float32(job); }
  static void dot(const MaskedConv2dKernels& k, const DotJob<float>& job) { k.dot_float32(job); }
  static int64_t lines(const MaskedConv2dKernels& k) { return k.tile_lines_float32; }
};
template <>
struct Kernels<double> {
  static void run(const MaskedConv2dKernels& k, const RunJob<double>& job) { k.run_float64(job); }
  static void dot(const MaskedConv2dKernels& k, const DotJob<double>& job) { k.dot_float64(job); }
  static int64_t lines(const MaskedConv2dKernels& k) { return k.tile_lines_float64; }
};

int64_t element_bytes(StorageType storage) {
  return storage == StorageType::kFloat64 ? 8 : storage == StorageType::kFloat32 ? 4 : 2;
}

// A piece of the output map.
struct Piece {
  int64_t row, rows, column, columns;  // output rows and columns; in lanes these are lines
};

// Where the tile at (row, column) finds its input: offsets of rows and columns, and what of a line
// of pixels is inside.
class Window {
 public:
  Window(const Correlation& c, const Tiling& t, const Strided& in, int64_t last_width)
      : c_(c), t_(t), in_(in), last_width_(last_width) {}

  void move_to(int64_t row, int64_t column) {
    const int64_t slots_y = static_cast<int64_t>(t_.y.position.size());
    const int64_t slots_x = static_cast<int64_t>(t_.x.position.size());
    rows_.resize(t_.fold * slots_y);
    row_mask_.resize(t_.fold * slots_y);
    for (int64_t part = 0; part < t_.fold; ++part) {
      for (int64_t y = 0; y < slots_y; ++y) {
        const int64_t at = (row + part * t_.rows) * c_.y.in_step + t_.y.position[y];
        const bool inside = at >= 0 && at < c_.y.in_size;
        rows_[part * slots_y + y] = inside ? at * in_.stride_height : kOutside;
        const int64_t width = at == c_.y.in_size - 1 ? last_width_ : kLine;
        row_mask_[part * slots_y + y] = (uint32_t{1} << width) - 1;
      }
    }
    columns_.resize(slots_x);
    column_mask_.resize(slots_x);
    for (int64_t x = 0; x < slots_x; ++x) {
      const int64_t at = column * c_.x.in_step + t_.x.position[x];
      if (t_.lanes) {
        columns_[x] = at >= 0 && at < c_.x.in_size ? at * in_.stride_width : kOutside;
        continue;
      }
      columns_[x] = at * in_.stride_width;
      column_mask_[x] = 0;
      for (int64_t i = 0; i < t_.segment(); ++i) {  // outputs outside the map read nothing either
        const int64_t pixel = at + i * c_.x.in_step;
        const bool inside = pixel >= 0 && pixel < c_.x.in_size && column + i < c_.x.count;
        column_mask_[x] |= static_cast<uint32_t>(inside) << i;
      }
    }
  }

  // `group` counts images, or groups of 16 of them where a line is images.
  FillJob job(int64_t group, const Block& block, const MaskedConv2dParams& params,
              void* buffer) const {
    const StorageType storage = params.storage;
    const int64_t image = group * (params.layout == Layout::kImages ? kLine : 1);
    const int64_t at = image * in_.stride_batch + block.channel * in_.stride_channel;
    return {static_cast<const char*>(in_.data) + at * element_bytes(storage),
            in_.stride_channel,
            block.channels,
            buffer,
            t_.channel_pitch,
            static_cast<int64_t>(t_.y.position.size()),
            static_cast<int64_t>(t_.x.position.size()),
            rows_.data(),
            columns_.data(),
            t_.fold,
            in_.stride_width * c_.x.in_step,
            column_mask_.data(),
            row_mask_.data(),
            in_.stride_batch,
            std::min(kLine, in_.batch - image)};
  }

 private:
  const Correlation& c_;
  const Tiling& t_;
  const Strided& in_;
  int64_t last_width_;  // pixels of the last row
  std::vector<int64_t> rows_, columns_;
  std::vector<uint32_t> row_mask_, column_mask_;
};

// One correlation, ready to run.
struct Work {
  const MaskedConv2dParams& params;
  Correlation correlation;
  Tiling tiling;
  Strided in, out;
  int64_t last_width = kLine;  // pixels only: of the last row, where the map is one run of pixels
  std::vector<Piece> pieces;
  int64_t parts = 1;  // pieces of each section's planes

  const MaskedConv2dKernels& kernels() const { return masked_conv2d_kernels(params.isa); }
  // Images, or groups of 16 of them.
  int64_t groups() const {
    return params.layout == Layout::kImages ? (in.batch + kLine - 1) / kLine : in.batch;
  }
  int64_t tasks() const { return groups() * static_cast<int64_t>(pieces.size()) * parts; }
  void fill(const FillJob& job) const {
    kernels().fill[static_cast<int>(params.layout)][static_cast<int>(params.storage)](job);
  }
  void emit(const EmitJob& job) const {
    kernels().emit[static_cast<int>(params.layout)][static_cast<int>(params.storage)](job);
  }
};

bool is_pointwise(const Correlation& c) {
  const auto trivial = [](const Axis& a) {
    return a.shift.size() == 1 && a.shift[0] == 0 && a.in_step == 1 && a.out_step == 1 &&
           a.out_first == 0 && a.count == a.in_size;
  };
  return trivial(c.y) && trivial(c.x);
}

bool is_one_run(const Strided& t) { return t.stride_height == t.width * t.stride_width; }

// A convolution of single pixels knows no rows: in lanes the map becomes one row, of pixels it
// becomes rows of 16, the last of which may be shorter.
void flatten(Work& work) {
  if (!is_pointwise(work.correlation) || !is_one_run(work.in) || !is_one_run(work.out)) return;
  const int64_t pixels = work.in.height * work.in.width;
  const bool lanes = work.params.layout != Layout::kPixels;
  const int64_t width = lanes ? pixels : kLine;
  const int64_t height = (pixels + width - 1) / width;
  if (!lanes) work.last_width = pixels - (height - 1) * width;
  for (Strided* t : {&work.in, &work.out}) {
    t->height = height;
    t->width = width;
    t->stride_height = width * t->stride_width;
  }
  Axis& y = work.correlation.y;
  Axis& x = work.correlation.x;
  y.count = y.in_size = height;
  x.count = x.in_size = width;
}

std::vector<Piece> cut(const Correlation& c, const Tiling& t) {
  std::vector<Piece> pieces;
  const int64_t tile_rows = t.rows * t.fold, tile_columns = t.lanes ? t.columns : t.segment();
  for (int64_t row = 0; row < c.y.count; row += tile_rows) {
    const int64_t rows = std::min(t.rows, c.y.count - row);
    for (int64_t column = 0; column < c.x.count; column += tile_columns) {
      const int64_t columns = t.lanes ? std::min(t.columns, c.x.count - column) : 1;
      pieces.push_back({row, rows, column, columns});
    }
  }
  return pieces;
}

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

template <class A>
Work plan(const MaskedConv2dParams& params, const Correlation& correlation, const Strided& in,
          const Strided& out) {
  Work work{params, correlation, {}, in, out, kLine, {}, 1};
  flatten(work);
  const TileForm form = params.packed != nullptr
                            ? Packed(params.packed).header().form()
                            : best_form(work.correlation, params.layout != Layout::kPixels,
                                        Kernels<A>::lines(work.kernels()), sizeof(A));
  work.tiling = tile_correlation(work.correlation, form, sizeof(A));
  work.pieces = cut(work.correlation, work.tiling);
  return work;
}

// Pairs of planes of a section that a part works on.
struct Pairs {
  int64_t first, count, plane, planes;
};
Pairs pairs_of(const Section& section, int64_t part, int64_t parts) {
  constexpr int64_t kUnit = 8;  // whole lines of channels are written fastest
  const int64_t units = (section.runs() + kUnit - 1) / kUnit;
  const int64_t first = units * part / parts * kUnit;
  const int64_t end = std::min(units * (part + 1) / parts * kUnit, section.runs());
  return {first, end - first, section.plane + 2 * first,
          std::min(2 * end, section.planes) - 2 * first};
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
        prefetch(job, window_.job(image, next, params, buffer_));
      } else if (leads_on) {
        prefetch(job, ahead_window_.job(ahead_.image, packed_.blocks()[0], params, buffer_));
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

  // Fetches what will be filled next while this block is summed.
  void prefetch(RunJob<A>& job, const FillJob& next) {
    const int64_t bytes = element_bytes(work_.params.storage);
    if (work_.params.layout != Layout::kLanes) return;
    int64_t first = 0, last = next.slots_x - 1;
    while (first < last && next.columns[first] == kOutside) ++first;
    while (last > first && next.columns[last] == kOutside) --last;
    row_bytes_.assign(next.rows, next.rows + next.slots_y);
    for (int64_t& row : row_bytes_) {
      if (row != kOutside) row = (row + next.columns[first]) * bytes;
    }
    job.prefetch = {static_cast<const char*>(next.from),
                    next.channel_step * bytes,
                    row_bytes_.data(),
                    next.slots_y,
                    next.channels * next.slots_y,
                    (last - first + 1) * kLine * bytes};
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
  std::vector<int64_t> row_bytes_;
  std::vector<uint32_t> emit_mask_;
};

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

template <class A>
std::unique_ptr<std::byte[]> pack(const Work& work) {
  return pack_weight(work.correlation, work.tiling, static_cast<const A*>(work.params.weight),
                     work.params.mask, work.params.parallel);
}

template <class A>
void forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y) {
  Work work = plan<A>(params, forward_correlation(params.shape), x, y);
  if (params.packed != nullptr) return correlate<A>(work, params.packed);
  correlate<A>(work, pack<A>(work).get());
}

template <class A>
void grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                const Strided& grad_input) {
  for (const Correlation& phase : grad_input_correlations(params.shape)) {
    Work work = plan<A>(params, phase, grad_output, grad_input);
    correlate<A>(work, pack<A>(work).get());
  }
}

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
        window_(work.correlation, work.tiling, work.in, work.last_width),
        grad_window_(same_, grad_tiling_, grad_, work.last_width) {
    static thread_local Scratch scratch;
    const Tiling& t = work.tiling;
    const int64_t buffer = t.block * t.channel_pitch + kLine;
    buffer_ = scratch.get<A>(buffer + work.correlation.planes() * t.lines() * kLine);
    grad_buffer_ = buffer_ + buffer;
  }

  void piece(int64_t image, const Piece& piece, int64_t part, A* values) {
    window_.move_to(piece.row, piece.column);
    grad_window_.move_to(piece.row, piece.column);
    shrink_grad(piece);
    for (int64_t s = 0; s < packed_.header().sections; ++s) {
      section(packed_.sections()[s], image, piece, part, values);
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
    grad_window_.move_to(piece.row, piece.column);
  }

  void section(const Section& section, int64_t image, const Piece& piece, int64_t part, A* values) {
    const Pairs pairs = pairs_of(section, part, work_.parts);
    if (pairs.count == 0) return;
    const Tiling& t = work_.tiling;
    work_.fill(grad_window_.job(image, {pairs.plane, pairs.planes, 0}, work_.params, grad_buffer_));
    for (int64_t b = 0; b < section.blocks; ++b) {
      const Block& block = packed_.blocks()[section.block + b];
      work_.fill(window_.job(image, block, work_.params, buffer_));
      const DotJob<A> job{buffer_,
                          t.row_step,
                          t.lanes ? piece.rows : 1,
                          t.lanes ? piece.columns : piece.rows,
                          packed_.runs() + block.run + pairs.first,
                          pairs.count,
                          pairs.planes,
                          packed_.taps(),
                          grad_buffer_,
                          values};
      Kernels<A>::dot(work_.kernels(), job);
    }
  }

  const Work& work_;
  const Packed& packed_;
  Strided grad_;
  Correlation same_;
  Tiling grad_tiling_;
  Window window_, grad_window_;
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

template <class A>
void grad_weight(const MaskedConv2dParams& params, const Strided& grad_output, const Strided& x,
                 A* grad_weight) {
  Work work = plan<A>(params, forward_correlation(params.shape), x, grad_output);
  const auto memory = pack_indices(work.correlation, work.tiling, params.mask, params.parallel);
  const Packed packed(memory.get());
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
      for (int64_t i = steps * chunk / chunks; i < steps * (chunk + 1) / chunks; ++i) {
        dotting.piece(i / pieces, work.pieces[i % pieces], part, mine);
      }
    }
  });
  scatter_values(packed, values, chunks, grad_weight, params.parallel);
}

bool has_work(const Conv2dShape& shape) {
  return shape.batch > 0 && shape.filters > 0 && shape.out_height > 0 && shape.out_width > 0;
}

template <class A>
bool fits(const MaskedConv2dParams& params, const Strided& x, const Strided& y, int64_t bytes) {
  const Packed packed(params.packed);
  if (!packed.is_sound(bytes, params.layout != Layout::kPixels,
                       Kernels<A>::lines(masked_conv2d_kernels(params.isa)))) {
    return false;
  }
  const Work work = plan<A>(params, forward_correlation(params.shape), x, y);
  return packed.fits(work.correlation, work.tiling, sizeof(A));
}

using Move = void (*)(const LanesJob&);

void move(Move move, const Strided& dense, void* lanes, const Parallel& parallel) {
  const int64_t groups = (dense.batch + kLine - 1) / kLine;
  const int64_t blocks = (dense.channels + kLine - 1) / kLine;
  parallel_for(parallel, groups * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t channel = i % blocks * kLine;
      move({dense, lanes, i / blocks, channel, std::min(kLine, dense.channels - channel)});
    }
  });
}

}  // namespace

void masked_conv2d_forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y) {
  if (!has_work(params.shape)) return;
  if (params.storage == StorageType::kFloat64) return forward<double>(params, x, y);
  forward<float>(params, x, y);
}

std::unique_ptr<std::byte[]> masked_conv2d_pack(const MaskedConv2dParams& params, const Strided& x,
                                                const Strided& y, int64_t* bytes) {
  const Correlation correlation = forward_correlation(params.shape);
  auto memory = params.storage == StorageType::kFloat64
                    ? pack<double>(plan<double>(params, correlation, x, y))
                    : pack<float>(plan<float>(params, correlation, x, y));
  *bytes = Packed(memory.get()).header().bytes;
  return memory;
}

bool masked_conv2d_fits(const MaskedConv2dParams& params, const Strided& x, const Strided& y,
                        int64_t bytes) {
  return params.storage == StorageType::kFloat64 ? fits<double>(params, x, y, bytes)
                                                 : fits<float>(params, x, y, bytes);
}

void masked_conv2d_grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                              const Strided& input) {
  if (!has_work(params.shape) || params.shape.channels == 0) return;
  if (params.storage == StorageType::kFloat64) {
    return grad_input<double>(params, grad_output, input);
  }
  grad_input<float>(params, grad_output, input);
}

void masked_conv2d_grad_weight(const MaskedConv2dParams& params, const Strided& grad_output,
                               const Strided& x, void* weight) {
  if (!has_work(params.shape) || params.shape.channels == 0) return;
  if (params.storage == StorageType::kFloat64) {
    return grad_weight<double>(params, grad_output, x, static_cast<double*>(weight));
  }
  grad_weight<float>(params, grad_output, x, static_cast<float*>(weight));
}

void to_lanes(const Strided& dense, void* lanes, StorageType storage, const Parallel& parallel,
              Isa isa) {
  move(masked_conv2d_kernels(isa).to_lanes[static_cast<int>(storage)], dense, lanes, parallel);
}

void from_lanes(const void* lanes, const Strided& dense, StorageType storage,
                const Parallel& parallel, Isa isa) {
  move(masked_conv2d_kernels(isa).from_lanes[static_cast<int>(storage)], dense,
       const_cast<void*>(lanes), parallel);
}

}  // namespace supertickets
