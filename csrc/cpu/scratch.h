// Uninitialised memory for the length of one call. Large blocks come from the pool: fresh pages
// would cost as much as a pass over the scores.
#pragma once

#include <cstdint>
#include <new>
#include <utility>

#include "memory_pool.h"

namespace supertickets {

template <class T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t count)
      : pooled_(static_cast<size_t>(count) * sizeof(T) >= kPooledBytes),
        memory_(static_cast<T*>(pooled_ ? pool_take(static_cast<size_t>(count) * sizeof(T))
                                        : ::operator new(static_cast<size_t>(count) * sizeof(T)))) {
  }
  Scratch(Scratch&& other) noexcept
      : pooled_(other.pooled_), memory_(std::exchange(other.memory_, nullptr)) {}
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(pooled_, other.pooled_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~Scratch() {
    if (!pooled_) {
      ::operator delete(memory_);
    } else if (memory_ != nullptr) {
      pool_give(memory_);
    }
  }

  T* get() const { return memory_; }

 private:
  static constexpr size_t kPooledBytes = size_t{1} << 18;

  bool pooled_ = false;
  T* memory_ = nullptr;
};

}  // namespace supertickets
