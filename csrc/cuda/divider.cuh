// Division by a number that the host knows: a multiplication and a shift on the device.
#pragma once

#include "runtime.h"

namespace supertickets::cuda {

// Source: Granlund and Montgomery 1994, figure 4.1.
struct Divider {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(static_cast<uint32_t>(by)) {  // 1 <= by < 2^31
    while ((uint64_t{1} << shift) < divisor) ++shift;
    const uint64_t rest = (uint64_t{1} << shift) - divisor;
    multiplier = static_cast<uint32_t>((rest << 32) / divisor + 1);
  }

  // x < 2^31
  __host__ __device__ uint32_t quotient(uint32_t x) const {
    return (static_cast<uint32_t>(uint64_t{x} * multiplier >> 32) + x) >> shift;
  }
};

}  // namespace supertickets::cuda
