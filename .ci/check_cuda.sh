#!/bin/sh
# Compiles every CUDA source for each real architecture that nvcc knows and fails on warnings and register spills.
# No arguments; works from a clean checkout. Needs no GPU.
set -eu
cd "$(dirname "$0")/.."

nvcc=${CUDACXX:-$(command -v nvcc || true)}
if [ -z "$nvcc" ] && [ -x /usr/local/cuda/bin/nvcc ]; then nvcc=/usr/local/cuda/bin/nvcc; fi
if [ -z "$nvcc" ]; then
  echo "skipped: no nvcc (searched CUDACXX, PATH, /usr/local/cuda)"
  exit 0
fi
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
version=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\.[0-9]*\).*/\1/p')
echo "nvcc $version"

find csrc -name '*.cu' | sort >"$build/sources"
[ -s "$build/sources" ] || { echo "error: no .cu under csrc"; exit 1; }
# Only an unknown architecture may be left out, so it is told apart by an empty source.
echo '' >"$build/empty.cu"
failed=0
compiled=0
for arch in 80 86 89 90a 100 120; do
  if ! "$nvcc" -arch="sm_$arch" -c "$build/empty.cu" -o "$build/empty.o" 2>"$build/log"; then
    if grep -q "Unsupported gpu architecture\|is not defined for option\|not supported" "$build/log"; then
      echo "sm_$arch: not known to nvcc $version, left out"
      continue
    fi
    cat "$build/log"
    exit 1
  fi
  while read -r source; do
    if ! "$nvcc" -std=c++17 -O3 -arch="sm_$arch" -I csrc -Xptxas -v,-warn-spills,-warn-lmem-usage -Werror all-warnings \
      -Xcompiler -Wall,-Wextra -c "$source" -o "$build/out.o" >"$build/log" 2>&1; then
      echo "FAILED $source, sm_$arch"
      cat "$build/log"
      failed=1
    elif grep -Eq '[1-9][0-9]* bytes spill' "$build/log"; then
      echo "FAILED $source, sm_$arch: registers spill"
      grep -E 'Compiling entry|spill|Used' "$build/log"
      failed=1
    else
      echo "ok $source sm_$arch: $(grep -c 'Compiling entry' "$build/log") kernels," \
        "$(sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' "$build/log" | sort -n | tail -1) registers at most"
    fi
    compiled=$((compiled + 1))
  done <"$build/sources"
done
[ "$compiled" -gt 0 ] || { echo "error: nvcc $version knows none of the architectures"; exit 1; }
exit "$failed"
