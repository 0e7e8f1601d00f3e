// What the passes share: one correlation cut into pieces of the map, where a tile finds its input,
// and the memory that threads work in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "masked_conv2d.h"
#include "masked_conv2d_geometry.h"
#include "masked_conv2d_pack.h"

namespace supertickets {

// Memory that a thread keeps from call to call: fresh pages would cost more than a small
// convolution.
class Scratch {
 public:
  template <class A>
  A* get(int64_t elements) {
    return static_cast<A*>(bytes(static_cast<size_t>(elements) * sizeof(A)));
  }

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  void* bytes(size_t count);
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

int64_t element_bytes(StorageType storage);

// A piece of the output map.
struct Piece {
  int64_t row, rows, column, columns;  // output rows and columns; in lanes these are lines
};

// Where the tile at (row, column) finds its input: offsets of rows and columns, and what of a line
// of pixels is inside.
class Window {
 public:
  // last_width: pixels of the last row.
  Window(const Correlation& correlation, const Tiling& tiling, const Strided& in,
         int64_t last_width)
      : c_(correlation), t_(tiling), in_(in), last_width_(last_width) {}

  void move_to(int64_t row, int64_t column);
  // `group` counts images, or groups of 16 of them where a line is images.
  FillJob job(int64_t group, const Block& block, const MaskedConv2dParams& params,
              void* buffer) const;

 private:
  const Correlation& c_;
  const Tiling& t_;
  const Strided& in_;
  int64_t last_width_;
  std::vector<int64_t> rows_, columns_;
  std::vector<uint32_t> row_mask_, column_mask_;
};

// What a fill that comes later will read, so that it can be fetched before.
class Ahead {
 public:
  // Nothing unless in lanes; valid until the next look.
  Prefetch look(const FillJob& next, const MaskedConv2dParams& params);

 private:
  std::vector<int64_t> rows_;
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

// Cuts a correlation; a packed weight in params decides the form of the tiles.
template <class A>
Work plan_work(const MaskedConv2dParams& params, const Correlation& correlation, const Strided& in,
               const Strided& out);

// Pairs of planes of a section that a part works on.
struct Pairs {
  int64_t first, count, plane, planes;
};
Pairs pairs_of(const Section& section, int64_t part, int64_t parts);

template <class A>
std::unique_ptr<std::byte[]> pack_work(const Work& work) {
  return pack_weight(work.correlation, work.tiling, static_cast<const A*>(work.params.weight),
                     work.params.mask, work.params.parallel);
}

// Sums the taps of a packed weight over the whole output: forward and grad_input.
template <class A>
void correlate(Work& work, const void* packed);

// Dot products of grad_output (work.out) with x (work.in), one per nonzero.
template <class A>
void dot_products(Work& work, A* grad_weight);

}  // namespace supertickets
