// Runs a kernel on the CPU: one fibre per CUDA thread, so that barriers and warp primitives can
// wait. The rules are those of sm_70 and later: threads of a warp are independent, exited threads
// do not count at a barrier, lanes that a mask names must all come.
#pragma once

#include "runtime_api.h"

namespace cuda_on_cpu {

constexpr int kWarp = 32;
constexpr int kThreadsMost = 1024;                 // of a block
constexpr size_t kSharedMost = size_t{227} << 10;  // bytes of dynamic shared memory

enum class Order { kForward, kReverse, kRandom };

struct Options {
  Order order = Order::kForward;  // of the threads in a block, and of the blocks
  uint64_t seed = 1;              // of kRandom
  int os_threads = 1;             // that share the blocks
};
void set_options(const Options& options);

// Where the running CUDA thread is.
struct Place {
  uint3 thread, block;
  dim3 block_size, grid_size;
  int lane;
};
const Place& here();
void* dynamic_shared();

// Returns of how many threads the predicate holds.
int block_barrier(bool predicate);
// Waits for the lanes of the mask; returns what each of them gave.
const uint64_t* exchange(uint32_t mask, uint64_t value);
void fence();

// Ends the program with a message that names the block and the thread.
[[noreturn]] void fail(const char* what);

void launch(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(void*), void* arguments);

template <class Kernel>
void launch(dim3 grid, dim3 block, size_t shared_bytes, Kernel kernel) {
  launch(grid, block, shared_bytes, [](void* call) { (*static_cast<Kernel*>(call))(); }, &kernel);
}

}  // namespace cuda_on_cpu
