// Compile the text of a .cu file with g++ and run its kernels on the CPU; see docs/cuda.md.
#pragma once

#include "device_functions.h"

#define SUPERTICKETS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (static_cast<void>(stream),                                               \
   cuda_on_cpu::launch(grid, block, shared_bytes, [=] { kernel(__VA_ARGS__); }))
