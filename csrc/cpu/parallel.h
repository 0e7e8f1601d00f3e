// The caller's thread pool, seen from kernels that know no framework.
#pragma once

#include <cstdint>

namespace supertickets {

struct Parallel {
  // Calls body(begin, end, context) over pieces of [0, count), each at least `grain` long.
  void (*run)(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);
  int64_t threads;
};

template <class Body>
void parallel_for(const Parallel& parallel, int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  parallel.run(
      count, grain,
      [](int64_t begin, int64_t end, void* context) {
        (*static_cast<const Body*>(context))(begin, end);
      },
      const_cast<Body*>(&body));
}

}  // namespace supertickets
