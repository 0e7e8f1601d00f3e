// Which instruction set the kernels run on. Every kernel file is compiled once for each.
#pragma once

#include <string>
#include <vector>

namespace supertickets {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// Name as SUPERTICKETS_ISA spells it.
const char* isa_name(Isa isa);

// The instruction sets that were compiled in and that this processor has, weakest first.
std::vector<Isa> usable_isas();
// The instruction sets that were compiled in, weakest first.
std::vector<Isa> compiled_isas();

// The best usable one, or the one that SUPERTICKETS_ISA names. Decided once per process.
// Throws std::runtime_error if SUPERTICKETS_ISA names none that is usable.
Isa selected_isa();

// Calls the getter that a kernel file defines once per instruction set.
#if defined(SUPERTICKETS_X86)
#define SUPERTICKETS_DECLARE_KERNELS(Table, getter) \
  namespace baseline {                              \
  const Table& getter();                            \
  }                                                 \
  namespace avx2 {                                  \
  const Table& getter();                            \
  }                                                 \
  namespace avx512 {                                \
  const Table& getter();                            \
  }                                                 \
  inline const Table& getter(Isa isa) {             \
    switch (isa) {                                  \
      case Isa::kAvx512:                            \
        return avx512::getter();                    \
      case Isa::kAvx2:                              \
        return avx2::getter();                      \
      default:                                      \
        return baseline::getter();                  \
    }                                               \
  }
#else
#define SUPERTICKETS_DECLARE_KERNELS(Table, getter) \
  namespace baseline {                              \
  const Table& getter();                            \
  }                                                 \
  inline const Table& getter(Isa) { return baseline::getter(); }
#endif

}  // namespace supertickets
