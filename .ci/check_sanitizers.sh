#!/bin/sh
# Builds the CPU kernels, the CUDA tile loops as the host plays them, and their tests with AddressSanitizer and
# UndefinedBehaviorSanitizer and runs them.
# Any finding ends it with an error. No arguments; works from a clean checkout.
# Needs CMake 3.24 or newer (on PATH, or its wheel in the active Python environment: pip install cmake), a build tool
# that CMake finds (make, or ninja named by CMAKE_GENERATOR) and a C++17 compiler with both sanitizers.
set -eu
cd "$(dirname "$0")/.."

if command -v cmake >/dev/null 2>&1; then
  cmake() { command cmake "$@"; }
elif python3 -c 'import cmake' >/dev/null 2>&1; then
  cmake() { python3 -m cmake "$@"; }
else
  echo "error: no cmake on PATH and no cmake wheel for $(command -v python3 || echo python3); pip install cmake" >&2
  exit 1
fi
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

flags="-g1 -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
cmake -S . -B "$build" -DTMOR_BACKEND=cpu -DTMOR_WERROR=ON -DTMOR_MODULE=OFF -DTMOR_TESTS=ON -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS="$flags" >"$build/log" 2>&1 || {
  cat "$build/log"
  exit 1
}
tests="test_cpu test_dbscan_bounds test_infonce test_attention test_batch_norm_relu test_temporal_convolution
  test_infonce_cuda test_cuda_tile_loop test_attention_tile_loop test_attention_statistics"
cmake --build "$build" --target kernel_tests --parallel "$(getconf _NPROCESSORS_ONLN)"
# Leaks are findings too, but the OpenMP runtime keeps its threads on purpose.
printf 'leak:libgomp\nleak:libomp\n' >"$build/suppressions"
# All at once, for they take minutes; then what each said. There are more threads than cores: none may spin.
export OMP_WAIT_POLICY=passive
running=""
for test in $tests; do
  ASAN_OPTIONS=detect_stack_use_after_return=1:strict_init_order=1 \
    LSAN_OPTIONS=suppressions="$build/suppressions":print_suppressions=0 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    "$build/$test" >"$build/$test.log" 2>&1 &
  running="$running $!"
done
failed=0
for process in $running; do wait "$process" || failed=1; done
for test in $tests; do cat "$build/$test.log"; done
exit "$failed"
