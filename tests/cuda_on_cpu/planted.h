// Kernels with faults on purpose: the checkers must notice them.
#pragma once

namespace planted {

void missing_barrier();  // a race in shared memory, for ThreadSanitizer
void out_of_bounds();    // a write past the end, for AddressSanitizer
void past_shared();      // a write past dynamic shared memory, for AddressSanitizer
void bad_mask();         // names lanes that never come; the scheduler says so
void early_exit();       // a barrier that half of a warp's lanes wait for in a primitive

}  // namespace planted
