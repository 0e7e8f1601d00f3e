#include "scheduler.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "fibre.h"

namespace cuda_on_cpu {
namespace {

enum class State { kReady, kAtBarrier, kAtWarp, kEnded };

struct CudaThread {
  Fibre fibre;
  Place place{};
  int index = 0;  // in the block
  State state = State::kReady;
  uint32_t mask = 0;           // of the warp primitive that it waits in
  uint64_t given = 0;          // to that primitive
  uint64_t received[kWarp]{};  // from it
};

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  void (*kernel)(void*);
  void* arguments;
  Options options;
  std::vector<uint64_t> blocks;  // in the order in which they start
  std::atomic<uint64_t> next{0};
  char started = 0, finished = 0;  // objects of release() and acquire()
};

// Runs blocks one after the other on an OS thread.
class BlockRunner {
 public:
  void run(Launch& launch);

  CudaThread& running() { return *running_; }
  void* shared() { return shared_.get(); }
  int barrier(bool predicate);
  const uint64_t* exchange(uint32_t mask, uint64_t value);
  [[noreturn]] void fail(const char* what);

 private:
  static void entry();
  void run_block(uint64_t block);
  void start_block(uint64_t block);
  bool run_warp(int warp);
  void wait(State state);
  void release_barrier();
  const std::vector<int>& in_order(std::vector<int>& list, int count);
  int warp_size(int warp) const { return std::min(kWarp, size_ - warp * kWarp); }
  uint32_t living(int warp) const;

  Launch* launch_ = nullptr;
  std::vector<std::unique_ptr<CudaThread>> threads_;
  CudaThread* running_ = nullptr;
  Context context_;
  std::unique_ptr<char[]> shared_;
  std::vector<int> warps_, lanes_;
  std::mt19937_64 random_;
  int size_ = 0, left_ = 0, at_barrier_ = 0;
  int votes_ = 0, counted_ = 0;  // of the barrier that is waited for, of the last one
  char barrier_object_ = 0, warp_objects_[kThreadsMost / kWarp]{};
};

thread_local BlockRunner* runner = nullptr;
thread_local cudaError_t last_error = cudaSuccess;
Options current_options;

void BlockRunner::entry() {
  Fibre::entered(runner->context_);
  acquire(&runner->launch_->started);
  runner->launch_->kernel(runner->launch_->arguments);
  release(&runner->launch_->finished);
  CudaThread& thread = *runner->running_;
  thread.state = State::kEnded;
  --runner->left_;
  thread.fibre.leave(runner->context_, true);
  std::abort();  // an ended thread is not entered again
}

void BlockRunner::wait(State state) {
  CudaThread& thread = *running_;
  thread.state = state;
  thread.fibre.leave(context_, false);
}

uint32_t BlockRunner::living(int warp) const {
  uint32_t lanes = 0;
  for (int lane = 0; lane < warp_size(warp); ++lane) {
    if (threads_[warp * kWarp + lane]->state != State::kEnded) lanes |= 1u << lane;
  }
  return lanes;
}

int BlockRunner::barrier(bool predicate) {
  release(&barrier_object_);
  votes_ += predicate ? 1 : 0;
  ++at_barrier_;
  wait(State::kAtBarrier);
  acquire(&barrier_object_);
  return counted_;
}

const uint64_t* BlockRunner::exchange(uint32_t mask, uint64_t value) {
  CudaThread& own = *running_;
  const int warp = own.index / kWarp;
  void* object = &warp_objects_[warp];
  if ((mask >> own.place.lane & 1) == 0) fail("a mask does not name the lane that gives it");
  const int size = warp_size(warp);
  const uint32_t there = size == kWarp ? ~0u : (1u << size) - 1;
  if ((mask & there & ~living(warp)) != 0) fail("a mask names a lane that has exited");
  own.mask = mask;
  own.given = value;
  release(object);
  const std::unique_ptr<CudaThread>* lanes = &threads_[warp * kWarp];
  uint64_t words[kWarp] = {};
  bool all = true;
  for (int lane = 0; lane < size && all; ++lane) {
    const CudaThread& thread = *lanes[lane];
    words[lane] = thread.given;
    if ((mask >> lane & 1) == 0 || &thread == &own) continue;
    all = thread.state == State::kAtWarp && thread.mask == mask;
  }
  if (all) {  // the last lane to come hands the words out
    for (int lane = 0; lane < size; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      std::copy_n(words, kWarp, lanes[lane]->received);
      lanes[lane]->state = State::kReady;
    }
  } else {
    wait(State::kAtWarp);
  }
  acquire(object);
  return own.received;
}

void BlockRunner::release_barrier() {
  counted_ = votes_;
  votes_ = at_barrier_ = 0;
  for (int i = 0; i < size_; ++i) {
    if (threads_[i]->state == State::kAtBarrier) threads_[i]->state = State::kReady;
  }
}

const std::vector<int>& BlockRunner::in_order(std::vector<int>& list, int count) {
  list.resize(count);
  std::iota(list.begin(), list.end(), 0);
  if (launch_->options.order == Order::kReverse) std::reverse(list.begin(), list.end());
  if (launch_->options.order == Order::kRandom) std::shuffle(list.begin(), list.end(), random_);
  return list;
}

// Runs the threads of a warp until each has ended or waits for another warp; whether any ran.
bool BlockRunner::run_warp(int warp) {
  bool any = false;
  for (bool ran = true; ran;) {
    ran = false;
    for (const int lane : in_order(lanes_, warp_size(warp))) {
      CudaThread& thread = *threads_[warp * kWarp + lane];
      if (thread.state != State::kReady) continue;
      running_ = &thread;
      thread.fibre.enter(context_);
      ran = any = true;
    }
  }
  return any;
}

void BlockRunner::start_block(uint64_t block) {
  const dim3 grid = launch_->grid, size = launch_->block;
  size_ = left_ = static_cast<int>(size.x * size.y * size.z);
  at_barrier_ = votes_ = 0;
  shared_.reset(new char[launch_->shared_bytes]);  // of the exact size, for AddressSanitizer
  std::fill_n(shared_.get(), launch_->shared_bytes, static_cast<char>(0xff));
  while (static_cast<int>(threads_.size()) < size_) {
    threads_.push_back(std::make_unique<CudaThread>());
  }
  for (int i = 0; i < size_; ++i) {
    const auto index = static_cast<unsigned>(i);
    CudaThread& thread = *threads_[i];
    thread.index = i;
    thread.state = State::kReady;
    thread.place = {
        {index % size.x, index / size.x % size.y, index / (size.x * size.y)},
        {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
         static_cast<unsigned>(block / (uint64_t{grid.x} * grid.y))},
        size,
        grid,
        i % kWarp};
    thread.fibre.prepare(&BlockRunner::entry);
  }
}

void BlockRunner::run_block(uint64_t block) {
  start_block(block);
  while (left_ > 0) {
    bool progress = false;
    for (const int warp : in_order(warps_, (size_ + kWarp - 1) / kWarp)) {
      progress = run_warp(warp) || progress;
    }
    if (left_ > 0 && at_barrier_ == left_) {
      release_barrier();
      progress = true;
    }
    if (!progress) {
      for (int i = size_; i-- > 0;) {
        if (threads_[i]->state != State::kEnded) running_ = threads_[i].get();
      }
      fail(running_->state == State::kAtBarrier
               ? "deadlock: a thread waits at a barrier that others never reach"
               : "deadlock: a lane waits in a warp primitive for lanes that never come");
    }
  }
}

void BlockRunner::run(Launch& launch) {
  launch_ = &launch;
  context_ = own_context();
  random_.seed(launch.options.seed);
  BlockRunner* const outer = runner;
  runner = this;
  for (uint64_t i; (i = launch.next.fetch_add(1)) < launch.blocks.size();) {
    run_block(launch.blocks[i]);
  }
  acquire(&launch.finished);
  runner = outer;
}

void BlockRunner::fail(const char* what) {
  const Place& place = running_->place;
  std::fprintf(stderr, "cuda_on_cpu: %s (block %u, %u, %u, thread %d)\n", what, place.block.x,
               place.block.y, place.block.z, running_->index);
  std::abort();
}

}  // namespace

void set_options(const Options& options) { current_options = options; }
const Place& here() { return runner->running().place; }
void* dynamic_shared() { return runner->shared(); }
int block_barrier(bool predicate) { return runner->barrier(predicate); }
const uint64_t* exchange(uint32_t mask, uint64_t value) { return runner->exchange(mask, value); }
void fail(const char* what) { runner->fail(what); }

// Fences of all threads happen one after the other.
void fence() {
  static char object = 0;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  release(&object);
  acquire(&object);
}

void launch(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(void*), void* arguments) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (threads == 0 || threads > kThreadsMost || blocks == 0 || grid.y > 65535 || grid.z > 65535 ||
      grid.x > 2147483647 || shared_bytes > kSharedMost) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  Launch launch{.grid = grid,
                .block = block,
                .shared_bytes = shared_bytes,
                .kernel = kernel,
                .arguments = arguments,
                .options = current_options,
                .blocks = std::vector<uint64_t>(blocks)};
  std::iota(launch.blocks.begin(), launch.blocks.end(), 0);
  if (launch.options.order == Order::kReverse) {
    std::reverse(launch.blocks.begin(), launch.blocks.end());
  } else if (launch.options.order == Order::kRandom) {
    std::mt19937_64 random(launch.options.seed);
    std::shuffle(launch.blocks.begin(), launch.blocks.end(), random);
  }
  release(&launch.started);
  if (launch.options.os_threads <= 1 || blocks == 1) {
    thread_local BlockRunner kept;  // with its stacks
    kept.run(launch);
    return;
  }
  std::vector<std::thread> workers;
  for (int i = 0; i < launch.options.os_threads; ++i) {
    workers.emplace_back([&launch] { BlockRunner().run(launch); });
  }
  for (std::thread& worker : workers) worker.join();
  acquire(&launch.finished);
}

}  // namespace cuda_on_cpu

cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_cpu::last_error;
  cuda_on_cpu::last_error = cudaSuccess;
  return error;
}
