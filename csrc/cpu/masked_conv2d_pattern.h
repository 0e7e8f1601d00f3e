// Which weights a mask keeps, in the order in which the kernels read them, with room for no values:
// it is made once for a mask, and new weights then cost one pass over the kept ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "masked_conv2d_work.h"

namespace supertickets {

struct PatternHeader {
  int64_t seal;     // of all that follows
  int64_t bytes;    // of everything
  int64_t weights;  // entries of the mask
  int64_t parts;    // packed indices: one, or of grad_input one for each phase
};

// Reads a pattern: a header, the mask's bits, and the parts.
class Pattern {
 public:
  explicit Pattern(const void* memory) : memory_(static_cast<const std::byte*>(memory)) {}

  // Whether memory of this size can be a pattern at all.
  bool is_sound(int64_t bytes) const;
  // Whether it was made of this very mask.
  bool is_of(const bool* mask, int64_t weights, const Parallel& parallel) const;
  // The indices of one part; null unless they were made for this convolution.
  const std::byte* part(const Work& work, int64_t index, int64_t element_bytes) const;

 private:
  const PatternHeader& header() const { return *reinterpret_cast<const PatternHeader*>(memory_); }
  const std::byte* bits() const { return memory_ + sizeof(PatternHeader); }

  const std::byte* memory_;
};

std::unique_ptr<std::byte[]> make_pattern(const std::vector<Work>& parts,
                                          const MaskedConv2dParams& params, int64_t weights,
                                          int64_t element_bytes, int64_t* bytes);

// Writes the packed weight of packed indices, as long as they are: what pack_weight gives.
void put_weights(const std::byte* indices, const float* weight, std::byte* packed,
                 const Parallel& parallel);

}  // namespace supertickets
