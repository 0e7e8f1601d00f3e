// The nonzeros of a masked weight in the order in which the tile kernels read them, as one block of
// memory without pointers, so that it can be kept in a tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
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
  int64_t seal;        // of all that follows: a header that was damaged does not match it
  int64_t bytes;       // of everything
  int64_t indices;     // 1: dense indices stand in the place of weights
  int64_t transposed;  // of Correlation
  int64_t planes, channels, row, kernel_size, element_bytes;
  // The tiling it was made for.
  int64_t lanes, tile_rows, tile_columns, fold, shares, channel_pitch;
  int64_t tap_offsets;  // a hash of them, and of the kernel positions that take part
  int64_t sections, blocks, runs, nonzeros;

  TileForm form() const { return {lanes != 0, tile_rows, tile_columns, fold, shares != 0}; }
};

// A change of one word always gives another hash.
inline uint64_t mixed(uint64_t hash, uint64_t word) { return (hash ^ word) * 0x100000001b3u; }

// A hash of all words but the first, which holds it.
template <class Header>
int64_t seal_of(const Header& header) {
  uint64_t words[sizeof(Header) / sizeof(uint64_t)];
  std::memcpy(words, &header, sizeof(words));
  uint64_t hash = 0x7375706572746b32;
  for (size_t i = 1; i < sizeof(words) / sizeof(uint64_t); ++i) hash = mixed(hash, words[i]);
  return static_cast<int64_t>(hash);
}

// Bit i is mask[64 word + i], of a mask of `count` entries.
uint64_t mask_word(const bool* mask, int64_t word, int64_t count);

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
  // Whether it was made for this convolution, of indices or of weights.
  bool fits(const Correlation& correlation, const Tiling& tiling, int64_t element_bytes,
            bool indices) const;

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
// Dense indices in the place of weights of `element_bytes`.
std::unique_ptr<std::byte[]> pack_indices(const Correlation& correlation, const Tiling& tiling,
                                          const bool* mask, int64_t element_bytes,
                                          const Parallel& parallel);

}  // namespace supertickets
