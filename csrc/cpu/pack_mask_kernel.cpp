// Between bytes and bits; compiled once per instruction set.
#include "mask_words.h"
#include "pack_mask.h"

namespace supertickets::SUPERTICKETS_ISA {
namespace {

void pack(const bool* mask, int64_t count, uint8_t* bits) {
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const uint64_t word = word_of(mask + i);
    for (int byte = 0; byte < 8; ++byte) {
      bits[i / 8 + byte] = static_cast<uint8_t>(word >> (8 * byte));
    }
  }
  for (; i < count; i += 8) {
    uint8_t byte = 0;
    for (int64_t k = 0; k < 8 && i + k < count; ++k) {
      byte = static_cast<uint8_t>(byte | (mask[i + k] ? 1 << k : 0));
    }
    bits[i / 8] = byte;
  }
}

void unpack(const uint8_t* bits, int64_t count, bool* mask) {
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    uint64_t word = 0;
    for (int byte = 0; byte < 8; ++byte) {
      word |= static_cast<uint64_t>(bits[i / 8 + byte]) << (8 * byte);
    }
    store_word(mask + i, word);
  }
  for (; i < count; ++i) mask[i] = (bits[i / 8] >> (i % 8) & 1) != 0;
}

}  // namespace

const PackMaskKernels& pack_mask_kernels() {
  static const PackMaskKernels kernels = {&pack, &unpack};
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
