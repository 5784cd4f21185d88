#!/usr/bin/env bash
# What must be seen on a real GPU, a stage at a time, each in one command and under nine minutes:
#
#     bash benchmarks/gpu_check.sh OUT [check]             tests marked `gpu`, and again under compute-sanitizer on small sizes
#     bash benchmarks/gpu_check.sh OUT record [CLAIM...]   benchmarks in full; all claims in one stage are more than fit
#     bash benchmarks/gpu_check.sh OUT train DATA [STEP]   real data at full size (benchmarks/real_data.py --full)
#
# For a bare CUDA machine without network that has torch, nvcc, cmake, pybind11, scikit-build-core and pytest (train:
# jsonargparse too). Builds for the architecture of its device alone. OUT gets gpu_check.json (a status for each step),
# a log for each step, and what the stage measured: benchmark.json and .html, saved case by case, or the results of the
# runs. A step that fails is recorded and the rest still runs; the exit status is 0 if none failed or timed out.
#
# Not yet run on a GPU: on machines without one every step was seen to fail or be skipped as it should.
set -uo pipefail

stage=${2:-check}
usage="usage: bash benchmarks/gpu_check.sh OUT [check | record [CLAIM...] | train DATA [STEP,STEP...]]"
case $stage:$# in
  check:[12] | record:*) understood=yes ;;
  train:[34]) [ -d "$3" ] && understood=yes ;;
esac
if [ -z "${understood:-}" ]; then
  echo "$usage; DATA is a folder" >&2
  exit 2
fi
claims=("${@:3}") data="" training=${4:-scratch,pretrain,transfer,few_shot_scratch,few_shot_pretrained,zero_shot}
if [ "$stage" = train ]; then data=$(cd "$3" && pwd); fi
if [ "$stage" = record ] && [ "${#claims[@]}" -eq 0 ]; then
  claims=(dependency_attention infonce infonce_step unik pretraining)
fi
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Seconds of each step; together with 2 s of grace each those of a stage stay below 540. TMOR_GPU_CHECK_LIMIT caps all.
declare -A limit=(
  [machine]=25 [build]=110 [tests]=110 [memcheck]=90 [racecheck]=65 [initcheck]=70 [synccheck]=55
  [benchmarks]=395 [training]=395
)

steps=()
failed=0

# write_json COMPLETE: the record as it stands; written after every step, so that a machine taken away leaves it too.
write_json() {
  {
    printf '{\n  "schema": "tmor_fast.gpu_check",\n  "schema_version": 1,\n  "complete": %s,\n' "$1"
    printf '  "seconds": %d,\n  "steps": [\n' "$SECONDS"
    local separator=""
    for step in "${steps[@]}"; do
      printf '%s    %s' "$separator" "$step"
      separator=$',\n'
    done
    printf '\n  ]\n}\n'
  } >"$out/.gpu_check.tmp" && mv "$out/.gpu_check.tmp" "$out/gpu_check.json"
}

# record NAME STATUS EXIT SECONDS REASON: the reason is one of this script's own sentences, so it needs no escaping.
record() {
  steps+=("{\"name\": \"$1\", \"status\": \"$2\", \"exit_status\": $3, \"seconds\": $4, \"reason\": \"$5\", \"log\": \"$1.log\"}")
  printf '%-12s %-8s %4ss  %s\n' "$1" "$2" "$4" "$5"
  if [ "$2" = failed ] || [ "$2" = timeout ]; then failed=1; fi
  write_json false
}

# run NAME COMMAND...: a step with its log.
run() {
  local name=$1 most=${limit[$1]} started=$SECONDS status
  shift
  if [ -n "${TMOR_GPU_CHECK_LIMIT:-}" ] && [ "$TMOR_GPU_CHECK_LIMIT" -lt "$most" ]; then most=$TMOR_GPU_CHECK_LIMIT; fi
  timeout -k 2 "$most" "$@" >"$out/$name.log" 2>&1 </dev/null
  status=$?
  local took=$((SECONDS - started))
  case $status in
    0) record "$name" passed 0 "$took" "" ;;
    124 | 137) record "$name" timeout "$status" "$took" "ended after $most s" ;;
    *) record "$name" failed "$status" "$took" "see the log" ;;
  esac
  return "$status"
}

# skip NAME REASON
skip() {
  echo "$2" >"$out/$1.log"
  record "$1" skipped null 0 "$2"
}

write_json false
cd "$work" || exit 2

# ---- machine: what there is, and the architecture to build for ---------------------------------------------------------
cat >"$work/machine.py" <<'PYTHON'
import pathlib
import sys

import torch

print(sys.version)
print("torch", torch.__version__, "CUDA", torch.version.cuda)
if not torch.cuda.is_available():
    sys.exit("torch finds no CUDA device")
major, minor = torch.cuda.get_device_capability(0)
print(torch.cuda.get_device_name(0), f"sm_{major}{minor}")
# Hopper's matrix instructions are in sm_90a alone.
pathlib.Path("architecture").write_text(f"{major}{minor}{'a' if (major, minor) == (9, 0) else ''}")
PYTHON
cat >"$work/machine.sh" <<'SHELL'
"$1" machine.py
status=$?
for tool in nvidia-smi "nvcc --version" "cmake --version" "compute-sanitizer --version"; do
  echo "--- $tool"
  $tool 2>&1 || true
done
exit "$status"
SHELL
run machine bash "$work/machine.sh" "$python"
device=""
[ -s "$work/architecture" ] && device=$(cat "$work/architecture")
no_device="no CUDA device that torch can use"

# ---- build: from the source, without network, beside the environment ---------------------------------------------------
site="$work/site"
built=""
if [ -z "$device" ]; then
  skip build "$no_device"
else
  if run build env TMOR_BACKEND=cuda TMOR_CUDA_ARCHS="$device" CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)" \
    "$python" -m pip install --no-build-isolation --no-deps --no-index --no-cache-dir --target "$site" "$repo"; then
    built=yes
  fi
fi
no_build="not built"
[ -z "$device" ] && no_build=$no_device
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

# ---- tests: of all files those that have GPU tests; one that needs a missing library does not stop the others ---------
tests=()
while IFS= read -r file; do tests+=("$file"); done < <(grep -rlE 'mark\.gpu' "$repo/python_tests" --include='*.py' | sort)
pytest=("$python" -m pytest -m gpu --continue-on-collection-errors -p no:cacheprovider -rs)
if [ "$stage" != check ]; then
  :
elif [ -z "$built" ]; then
  skip tests "$no_build"
elif [ "${#tests[@]}" -eq 0 ]; then
  skip tests "no test is marked gpu"
else
  run tests "${pytest[@]}" --durations=15 "${tests[@]}"
fi

# ---- benchmarks ------------------------------------------------------------------------------------------------------
if [ "$stage" != record ]; then
  :
elif [ -z "$built" ]; then
  skip benchmarks "$no_build"
else
  run benchmarks "$python" "$repo/benchmarks/run.py" "${claims[@]}" --device cuda --out "$out/benchmark.json"
fi

# ---- real data at full size ------------------------------------------------------------------------------------------
if [ "$stage" != train ]; then
  :
elif [ -z "$built" ]; then
  skip training "$no_build"
else
  # Clip stores and checkpoints stay in the working folder; only the results come back.
  run training "$python" "$repo/benchmarks/real_data.py" --data "$data" --out runs --steps "$training" --full
  cp runs/results/*.json "$out"/
fi

# ---- compute-sanitizer: this library's kernels alone (initcheck: all), small sizes ------------------------------------
[ "$stage" = check ] || {
  write_json true
  exit "$failed"
}
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
filter=()
if [ -n "$sanitizer" ]; then
  # Newer releases call the filter --kernel-name, older ones --kernel-regex; the library's namespace is tmor.
  help=$("$sanitizer" --help 2>&1 || true)
  case $help in
    *--kernel-name*) filter=(--kernel-name kns=tmor) ;;
    *--kernel-regex*) filter=(--kernel-regex kns=tmor) ;;
  esac
fi
for tool in memcheck racecheck initcheck synccheck; do
  if [ -z "$built" ]; then
    skip "$tool" "$no_build"
  elif [ -z "$sanitizer" ]; then
    skip "$tool" "no compute-sanitizer"
  elif [ "${#tests[@]}" -eq 0 ]; then
    skip "$tool" "no test is marked gpu"
  else
    # The caching allocator would hide an access beyond a tensor inside its own block; graphs cannot do without it.
    extra=() selected=() only=("${filter[@]}")
    if [ "$tool" = memcheck ]; then extra=(PYTORCH_NO_CUDA_MEMORY_CACHING=1) selected=(-k "not graph"); fi
    # What torch's kernels write counts as initialised only if they are watched too.
    if [ "$tool" = initcheck ]; then only=(); fi
    run "$tool" env TMOR_TEST_SMALL=1 "${extra[@]}" "$sanitizer" --tool "$tool" --error-exitcode 9 \
      --target-processes all "${only[@]}" "${pytest[@]}" "${selected[@]}" "${tests[@]}"
  fi
done

write_json true
exit "$failed"
