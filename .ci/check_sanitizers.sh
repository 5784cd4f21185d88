#!/bin/sh
# Builds the CPU kernels and their test with AddressSanitizer and UndefinedBehaviorSanitizer and runs it.
# Any finding ends it with an error. No arguments; works from a clean checkout.
set -eu
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

flags="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
cmake -S . -B "$build" -DTMOR_BACKEND=cpu -DTMOR_WERROR=ON -DTMOR_MODULE=OFF -DTMOR_TESTS=ON -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS="$flags" >"$build/log" 2>&1 || {
  cat "$build/log"
  exit 1
}
cmake --build "$build" --target test_cpu --parallel
# Leaks are findings too, but the OpenMP runtime keeps its threads on purpose.
printf 'leak:libgomp\nleak:libomp\n' >"$build/suppressions"
ASAN_OPTIONS=detect_stack_use_after_return=1:strict_init_order=1 \
  LSAN_OPTIONS=suppressions="$build/suppressions":print_suppressions=0 \
  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
  "$build/test_cpu"
