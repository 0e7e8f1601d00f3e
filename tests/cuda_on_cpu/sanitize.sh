#!/usr/bin/env bash
# Runs the CUDA kernels on the CPU under sanitizers, and proves that planted faults are noticed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build() {
  cmake -G Ninja -S tests/cuda_on_cpu -B "$2" -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
    -DSUPERTICKETS_SANITIZE="$1" >/dev/null
  cmake --build "$2" ${MAX_JOBS:+--parallel "$MAX_JOBS"}
}

# A planted fault must end the program with this message.
notices() {
  local program=$1 fault=$2 message=$3 log
  log="$(dirname "$program")/planted-$fault.log"
  if "$program" "--plant=$fault" >"$log" 2>&1 || ! grep -qE "$message" "$log"; then
    echo "the planted fault $fault was not noticed, see $log" >&2
    return 1
  fi
  echo "the planted fault $fault is noticed"
}

folder=build/cuda-sanitize-address
build address,undefined "$folder"
"$folder/cuda_check"
notices "$folder/cuda_check" out_of_bounds 'AddressSanitizer: heap-buffer-overflow'
notices "$folder/cuda_check" past_shared 'AddressSanitizer: heap-buffer-overflow'
notices "$folder/cuda_check" bad_mask 'lanes that never come|a lane that has exited'
notices "$folder/cuda_check" early_exit 'deadlock'

folder=build/cuda-sanitize-thread
build thread "$folder"
"$folder/cuda_check"
notices "$folder/cuda_check" missing_barrier 'ThreadSanitizer: data race'
