#!/usr/bin/env bash
# Runs the CPU kernels under sanitizers, without Python, and proves that planted faults are noticed.
#   tests/build/sanitize.sh                     address,undefined, then thread
#   tests/build/sanitize.sh address,undefined   only that combination
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The kernels are many and unrolled: with checks in line and all of "undefined", they would compile
# for ten minutes. What is left out, null pointers and objects' sizes, AddressSanitizer sees too.
undefined=alignment,bool,bounds,enum,integer-divide-by-zero,nonnull-attribute,return,shift
undefined+=,signed-integer-overflow,unreachable
flags="-O1 -DNDEBUG"
outlined="--param=asan-instrumentation-with-call-threshold=0"
if "${CXX:-c++}" $outlined -fsyntax-only -x c++ /dev/null 2>/dev/null; then flags+=" $outlined"; fi

check() {
  local sanitizers=$1 folder="build/sanitize-${1//,/-}"
  cmake -G Ninja -S . -B "$folder" -DCMAKE_BUILD_TYPE=Sanitize -DCMAKE_CXX_FLAGS_SANITIZE="$flags" \
    -DSUPERTICKETS_KERNEL_CHECK=ON -DSUPERTICKETS_SANITIZE="${sanitizers/undefined/$undefined}" \
    >/dev/null
  cmake --build "$folder" ${MAX_JOBS:+--parallel "$MAX_JOBS"}
  echo "kernels under $sanitizers:"
  "$folder/kernel_check"

  local kind log
  for kind in ${sanitizers//,/ }; do
    log="$folder/planted-$kind.log"
    if "$folder/kernel_check" "--plant=$kind" >"$log" 2>&1; then
      echo "the planted $kind fault was not noticed" >&2
      return 1
    fi
    if ! grep -qE 'Sanitizer|runtime error' "$log"; then
      echo "the planted $kind fault ended without a sanitizer report, see $log" >&2
      return 1
    fi
    echo "a planted $kind fault is noticed"
  done
}

for sanitizers in "${@:-address,undefined}"; do check "$sanitizers"; done
if [ "$#" -eq 0 ]; then check thread; fi
