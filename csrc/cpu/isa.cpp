#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace supertickets {
namespace {

bool processor_has(Isa isa) {
#if defined(SUPERTICKETS_X86)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::kBaseline:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return isa == Isa::kBaseline;
#endif
}

Isa choose_isa() {
  const std::vector<Isa> usable = usable_isas();
  const char* forced = std::getenv("SUPERTICKETS_ISA");
  if (forced == nullptr || *forced == '\0') return usable.back();
  std::string names;
  for (const Isa isa : usable) {
    if (std::string(forced) == isa_name(isa)) return isa;
    names += names.empty() ? isa_name(isa) : std::string(", ") + isa_name(isa);
  }
  throw std::runtime_error("SUPERTICKETS_ISA must be one of " + names + " on this machine, got " +
                           forced);
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "baseline";
  }
}

std::vector<Isa> compiled_isas() {
#if defined(SUPERTICKETS_X86)
  return {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512};
#else
  return {Isa::kBaseline};
#endif
}

std::vector<Isa> usable_isas() {
  std::vector<Isa> usable;
  for (const Isa isa : compiled_isas()) {
    if (processor_has(isa)) usable.push_back(isa);
  }
  return usable;
}

Isa selected_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

}  // namespace supertickets
