// The nonzeros of a masked weight in the order in which the tile kernels read them, as one block of
// memory without pointers, so that it can be kept in a tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "masked_conv2d_geometry.h"

namespace supertickets {

// Output planes that read the same input channels: a group, or groups that share a block.
struct Section {
  int64_t plane, planes;
  int64_t block, blocks;

  int64_t runs() const { return (planes + 1) / 2; }  // of each block
};

struct Block {
  int64_t channel, channels;  // input
  int64_t run;                // the first of its section's runs
};

struct PackedHeader {
  int64_t seal;   // of all that follows: a header that was damaged does not match it
  int64_t bytes;  // of everything
  int64_t planes, channels, row, kernel_size, element_bytes;
  // The tiling it was made for.
  int64_t lanes, tile_rows, tile_columns, fold, shares, channel_pitch;
  int64_t tap_offsets;  // a hash of them
  int64_t sections, blocks, runs, nonzeros;

  TileForm form() const { return {lanes != 0, tile_rows, tile_columns, fold, shares != 0}; }
};

// Reads a packed weight.
class Packed {
 public:
  explicit Packed(const void* memory) : memory_(static_cast<const std::byte*>(memory)) {}

  const PackedHeader& header() const { return *at<PackedHeader>(0); }
  const Section* sections() const { return at<Section>(sizeof(PackedHeader)); }
  const Block* blocks() const {
    return reinterpret_cast<const Block*>(sections() + header().sections);
  }
  const Run* runs() const { return reinterpret_cast<const Run*>(blocks() + header().blocks); }
  const std::byte* taps() const {
    return reinterpret_cast<const std::byte*>(runs() + header().runs);
  }
  // Whether memory of this size can be a packed weight at all, for tiles of lanes or pixels and
  // kernels of this tile size that share taps or do not.
  bool is_sound(int64_t bytes, bool lanes, int64_t max_lines, bool shares) const;
  // Whether it was made for this convolution.
  bool fits(const Correlation& correlation, const Tiling& tiling, int64_t element_bytes) const;

 private:
  template <class T>
  const T* at(size_t offset) const {
    return reinterpret_cast<const T*>(memory_ + offset);
  }
  const std::byte* memory_;
};

// Weight values (A is float or double). A null mask keeps every weight.
template <class A>
std::unique_ptr<std::byte[]> pack_weight(const Correlation& correlation, const Tiling& tiling,
                                         const A* weight, const bool* mask,
                                         const Parallel& parallel);
// Dense indices in the place of weights.
std::unique_ptr<std::byte[]> pack_indices(const Correlation& correlation, const Tiling& tiling,
                                          const bool* mask, const Parallel& parallel);

}  // namespace supertickets
