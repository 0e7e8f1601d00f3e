// Large blocks of memory that are used again. The C library gives blocks of some tens of MiB back
// to the system at once, and a convolution then spends more time on fresh pages than on arithmetic.
#pragma once

#include <cstddef>

namespace supertickets {

inline constexpr size_t kPoolBlock = size_t{2} << 20;  // blocks are multiples of this
inline constexpr size_t kPoolBytes = size_t{1} << 30;  // most that waits for use

// At least `bytes`, aligned to kPoolBlock. Throws std::bad_alloc.
void* pool_take(size_t bytes);
// Only what pool_take returned. From any thread.
void pool_give(void* memory) noexcept;

}  // namespace supertickets
