#include "memory_pool.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

namespace supertickets {
namespace {

class Pool {
 public:
  void* take(size_t bytes) {
    const size_t size = (bytes / kPoolBlock + 1) * kPoolBlock;
    {
      const std::lock_guard lock(mutex_);
      const auto block = waiting_.lower_bound(size);
      if (block != waiting_.end() && block->first <= size + size / 4) {
        void* memory = block->second;
        waiting_bytes_ -= block->first;
        waiting_.erase(block);
        return memory;
      }
    }
    void* memory = std::aligned_alloc(kPoolBlock, size);
    if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory, size, MADV_HUGEPAGE);  // a wish, not a need
#endif
    const std::lock_guard lock(mutex_);
    sizes_[memory] = size;
    return memory;
  }

  void give(void* memory) {
    {
      const std::lock_guard lock(mutex_);
      const auto known = sizes_.find(memory);
      if (waiting_bytes_ + known->second <= kPoolBytes) {
        waiting_bytes_ += known->second;
        waiting_.emplace(known->second, memory);
        return;
      }
      sizes_.erase(known);
    }
    std::free(memory);
  }

 private:
  std::mutex mutex_;
  std::multimap<size_t, void*> waiting_;
  std::unordered_map<void*, size_t> sizes_;
  size_t waiting_bytes_ = 0;
};

Pool& pool() {
  static Pool* const instance = new Pool;  // tensors may outlive every static
  return *instance;
}

}  // namespace

void* pool_take(size_t bytes) { return pool().take(bytes); }

void pool_give(void* memory) noexcept { pool().give(memory); }

}  // namespace supertickets
