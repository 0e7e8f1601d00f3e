// The checks of the CUDA kernels on the CPU, for sanitizers.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace cuda_check {

inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "cuda_check: %s\n", what);
  std::exit(1);
}

void check_conv();
void check_jacobian();
void check_regions();

}  // namespace cuda_check
