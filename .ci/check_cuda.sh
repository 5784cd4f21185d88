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
architectures=""
for arch in 80 86 89 90 90a 100 120; do
  if ! "$nvcc" -arch="sm_$arch" -c "$build/empty.cu" -o "$build/empty.o" 2>"$build/log"; then
    if grep -q "Unsupported gpu architecture\|is not defined for option\|not supported" "$build/log"; then
      echo "sm_$arch: not known to nvcc $version, left out"
      continue
    fi
    cat "$build/log"
    exit 1
  fi
  # As CMakeLists.txt has it: one PTX for several, see there.
  case $arch in
  *a) from=$arch ;;
  86 | 89 | 12?) from=86 ;;
  *) from=80 ;;
  esac
  architectures="$architectures -gencode=arch=compute_$from,code=sm_$arch"
done
[ -n "$architectures" ] || { echo "error: nvcc $version knows none of the architectures"; exit 1; }

# One job: a source. Fails on a warning or a spill, says what it found in one piece.
cat >"$build/job" <<'EOF'
nvcc=$1 build=$2 architectures=$3 source=$4
out=$(mktemp -d "$build/job.XXXXXX")
# shellcheck disable=SC2086
if ! "$nvcc" -std=c++17 -O3 $architectures -I csrc -Xptxas -v,-warn-spills,-warn-lmem-usage -Werror all-warnings \
  -Xcompiler -Wall,-Wextra -c "$source" -o "$out/out.o" >"$out/log" 2>&1; then
  echo "FAILED $source
$(cat "$out/log")"
  exit 1
fi
if grep -Eq '[1-9][0-9]* bytes spill' "$out/log"; then
  echo "FAILED $source: registers spill
$(grep -E 'Compiling entry|spill|Used' "$out/log")"
  exit 1
fi
used=$(sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' "$out/log" | sort -n | tail -1)
found=$(grep -o "for 'sm_[0-9a-z]*'" "$out/log" | sort -u | tr -d "'" | sed 's/for //' | tr '\n' ' ')
echo "ok $source ${found:-(no kernels)}: $(grep -c 'Compiling entry' "$out/log") kernels, ${used:-0} registers at most"
EOF
# The largest files first, so that no core waits at the end.
xargs ls -S <"$build/sources" |
  xargs -P "$(getconf _NPROCESSORS_ONLN)" -I SOURCE sh "$build/job" "$nvcc" "$build" "$architectures" SOURCE
