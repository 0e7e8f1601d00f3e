// Lets tests choose in which order CUDA threads run.
#include <torch/csrc/stable/library.h>

#include "scheduler.h"

namespace {

// order: 0 forward, 1 reverse, 2 random.
void set_order(int64_t order, int64_t seed, int64_t os_threads) {
  cuda_on_cpu::set_options({static_cast<cuda_on_cpu::Order>(order), static_cast<uint64_t>(seed),
                            static_cast<int>(os_threads)});
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(supertickets_cuda_on_cpu, m) {
  m.def("set_order(int order, int seed, int os_threads) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(supertickets_cuda_on_cpu, CompositeExplicitAutograd, m) {
  m.impl("set_order", TORCH_BOX(&set_order));
}
