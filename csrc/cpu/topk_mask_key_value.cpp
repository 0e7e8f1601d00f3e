#include "topk_mask_key_value.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace supertickets {
namespace {

struct Format {
  int bits;           // in all
  int fraction_bits;  // stored
  int64_t infinity;   // its bits
};

Format format_of(StorageType storage) {
  switch (storage) {
    case StorageType::kFloat64:
      return {64, 52, 0x7ff0000000000000};
    case StorageType::kBFloat16:
      return {16, 7, 0x7f80};
    case StorageType::kFloat16:
      return {16, 10, 0x7c00};
    default:
      return {32, 23, 0x7f800000};
  }
}

int64_t shift_of(const Format& format) {
  return static_cast<int64_t>((uint64_t{1} << (format.bits - 1)) - 1) - format.infinity;
}

int bias_of(const Format& format) { return (1 << (format.bits - 2 - format.fraction_bits)) - 1; }

double magnitude_of(const Format& format, int64_t bits) {
  if (bits == format.infinity) return std::numeric_limits<double>::infinity();
  const int64_t one = int64_t{1} << format.fraction_bits;
  const int64_t exponent = bits / one, fraction = bits % one;
  const int scale = (exponent == 0 ? 1 : static_cast<int>(exponent)) - bias_of(format);
  const int64_t significand = exponent == 0 ? fraction : fraction + one;
  return std::ldexp(static_cast<double>(significand), scale - format.fraction_bits);
}

// Rounds towards zero: a hint need not be met exactly.
int64_t bits_of(const Format& format, double magnitude) {
  if (std::isinf(magnitude)) return format.infinity;
  if (magnitude == 0) return 0;
  const int least = 1 - bias_of(format);  // exponent of the smallest normal number
  const int exponent = std::max(std::ilogb(magnitude), least);
  const auto significand =
      static_cast<int64_t>(std::ldexp(magnitude, format.fraction_bits - exponent));
  const int64_t one = int64_t{1} << format.fraction_bits;
  const int64_t bits = (exponent - least) * one + significand;
  return std::min(bits, format.infinity);
}

}  // namespace

double value_of_key(const TopkMaskParams& params, int64_t key) {
  const Format format = format_of(params.storage);
  const int64_t rank = key - shift_of(format);
  if (params.by_magnitude ? rank < 0 : rank < -format.infinity) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return rank < 0 ? -magnitude_of(format, -rank) : magnitude_of(format, rank);
}

int64_t key_of_value(const TopkMaskParams& params, double value) {
  const Format format = format_of(params.storage);
  const int64_t shift = shift_of(format);
  if (std::isnan(value)) return shift - 1 - (params.by_magnitude ? 0 : format.infinity);
  const int64_t bits = bits_of(format, std::fabs(value));
  return shift + (!params.by_magnitude && value < 0 ? -bits : bits);
}

void write_value(void* values, StorageType storage, int64_t i, double value) {
  const Format format = format_of(storage);
  uint64_t bits;
  if (std::isnan(value)) {
    bits = static_cast<uint64_t>(format.infinity) | uint64_t{1} << (format.fraction_bits - 1);
  } else {
    bits = static_cast<uint64_t>(bits_of(format, std::fabs(value)));
    if (value < 0) bits |= uint64_t{1} << (format.bits - 1);
  }
  const auto write = [&](auto narrow) {
    std::memcpy(static_cast<char*>(values) + i * static_cast<int64_t>(sizeof(narrow)), &narrow,
                sizeof(narrow));
  };
  if (format.bits == 64) return write(bits);
  if (format.bits == 32) return write(static_cast<uint32_t>(bits));
  write(static_cast<uint16_t>(bits));
}

double read_value(const void* values, StorageType storage, int64_t i) {
  const Format format = format_of(storage);
  uint64_t bits = 0;
  const size_t bytes = static_cast<size_t>(format.bits / 8);  // the lowest come first
  std::memcpy(&bits, static_cast<const char*>(values) + static_cast<size_t>(i) * bytes, bytes);
  const uint64_t sign = uint64_t{1} << (format.bits - 1);
  const auto magnitude = static_cast<int64_t>(bits & (sign - 1));
  if (magnitude > format.infinity) return std::numeric_limits<double>::quiet_NaN();
  return (bits & sign) != 0 ? -magnitude_of(format, magnitude) : magnitude_of(format, magnitude);
}

}  // namespace supertickets
