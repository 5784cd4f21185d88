"""`benchmarks/gpu_check.sh` where there is no GPU, and with stand-ins for the tools it calls."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.sh"
SANITIZERS = ["memcheck", "racecheck", "initcheck", "synccheck"]
STEPS = {
    "check": ["machine", "build", "tests", *SANITIZERS],
    "record": ["machine", "build", "benchmarks"],
    "train": ["machine", "build", "training"],
}
pytestmark = pytest.mark.skipif(
    not SCRIPT.is_file() or shutil.which("bash") is None, reason="needs bash and the repository's benchmarks"
)


def check(out: Path, *stage: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = subprocess.run(
        ["bash", str(SCRIPT), str(out), *stage], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    record = json.loads((out / "gpu_check.json").read_text())
    assert record["complete"]
    steps = {step["name"]: step for step in record["steps"]}
    assert list(steps) == STEPS[stage[0] if stage else "check"], done.stderr
    for step in steps.values():
        assert (out / step["log"]).is_file()
        assert step["name"] in done.stdout
    return done.returncode, steps


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_first_step_fails_and_the_rest_is_skipped(tmp_path: Path) -> None:
    for stage in ([], ["record"], ["train", str(tmp_path)]):
        code, steps = check(tmp_path / "out", *stage, PYTHON=sys.executable)
        assert code == 1
        assert (steps["machine"]["status"], steps["machine"]["exit_status"]) == ("failed", 1)
        assert "torch finds no CUDA device" in (tmp_path / "out" / "machine.log").read_text()
        for step in list(steps.values())[1:]:
            assert (step["status"], step["reason"]) == ("skipped", "no CUDA device that torch can use")


PYTHON = """#!/bin/sh
echo "$@" "TMOR_CUDA_ARCHS=$TMOR_CUDA_ARCHS SMALL=$TMOR_TEST_SMALL PATHS=$PYTHONPATH" >>"{log}"
case "$*" in
  machine.py) printf 90a >architecture ;;
  *"pip install"*) exit {build} ;;
  *"-m pytest"*) exit {tests} ;;
  *run.py*) {benchmarks} ;;
  *real_data.py*) mkdir -p runs/results && echo measured >runs/results/scratch.json ;;
esac
"""


def stand_ins(folder: Path, build: int = 0, tests: int = 0, benchmarks: str = "exit 0") -> dict[str, str]:
    """A Python that only notes what it is asked, and a sanitizer that runs what it is given."""
    log = folder / "calls"
    python = program(folder / "python", PYTHON.format(log=log, build=build, tests=tests, benchmarks=benchmarks))
    tools = folder / "bin"
    tools.mkdir()
    program(
        tools / "compute-sanitizer",
        '#!/bin/sh\necho "$@" >>"{}"\n[ "$1" = --help ] && echo "--kernel-name arg"\nexit 0\n'.format(
            folder / "checks"
        ),
    )
    return {"PYTHON": str(python), "PATH": f"{tools}:{os.environ['PATH']}"}


def test_benchmarks_are_recorded_in_full(tmp_path: Path) -> None:
    tools = stand_ins(tmp_path)
    code, steps = check(tmp_path / "out", "record", "dbscan", "infonce", **tools)
    assert (code, {step["status"] for step in steps.values()}) == (0, {"passed"})
    benchmarks = (tmp_path / "calls").read_text().splitlines()[2]
    assert "run.py dbscan infonce --device cuda --out" in benchmarks
    assert re.search(r"PATHS=\S+/site", benchmarks)
    assert check(tmp_path / "out", "record", **tools)[0] == 0
    assert "run.py dependency_attention infonce infonce_step unik pretraining " in (tmp_path / "calls").read_text()


def test_real_data_trains_at_full_size_and_its_results_come_back(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, steps = check(tmp_path / "out", "train", str(tmp_path / "data"), "scratch,pretrain", **stand_ins(tmp_path))
    assert (code, steps["training"]["status"]) == (0, "passed")
    call = (tmp_path / "calls").read_text().splitlines()[2]
    assert f"--data {tmp_path / 'data'} --out runs --steps scratch,pretrain --full" in call
    assert (tmp_path / "out" / "scratch.json").read_text() == "measured\n"


@pytest.mark.parametrize("stage", [["tune"], ["check", "more"], ["train"], ["train", "no/such/folder"]])
def test_other_stages_are_refused(tmp_path: Path, stage: list[str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT), str(tmp_path / "out"), *stage], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: bash benchmarks/gpu_check.sh OUT [check | record [CLAIM...] | train DATA" in done.stderr


def test_all_steps_in_order_for_the_devices_architecture_alone(tmp_path: Path) -> None:
    code, steps = check(tmp_path / "out", **stand_ins(tmp_path))
    assert (code, {step["status"] for step in steps.values()}) == (0, {"passed"})
    calls = (tmp_path / "calls").read_text().splitlines()
    build, tests = calls[1:3]
    assert "--no-build-isolation --no-deps --no-index" in build
    assert "TMOR_CUDA_ARCHS=90a" in build
    assert "-m pytest -m gpu --continue-on-collection-errors" in tests
    assert "python_tests/ops/test_launch.py" in tests
    assert "test_table.py" not in tests
    assert re.search(r"PATHS=\S+/site", tests)
    checks = (tmp_path / "checks").read_text().splitlines()
    assert [line.split()[1] for line in checks if line.startswith("--tool")] == SANITIZERS
    # What torch's kernels write is uninitialised to a tool that does not watch them.
    for line in checks:
        if line.startswith("--tool"):
            assert ("--kernel-name kns=tmor" in line) == ("--tool initcheck" not in line)


def test_a_failure_is_recorded_and_the_rest_still_runs(tmp_path: Path) -> None:
    code, steps = check(tmp_path / "out", **stand_ins(tmp_path, tests=3))
    assert code == 1
    assert (steps["tests"]["status"], steps["tests"]["exit_status"]) == ("failed", 3)
    assert {step["status"] for name, step in steps.items() if name != "tests"} == {"passed"}


def test_without_a_build_nothing_is_claimed(tmp_path: Path) -> None:
    code, steps = check(tmp_path / "out", **stand_ins(tmp_path, build=1))
    assert code == 1
    assert steps["build"]["status"] == "failed"
    assert {step["reason"] for step in list(steps.values())[2:]} == {"not built"}


def test_a_step_that_hangs_is_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    tools = stand_ins(tmp_path, benchmarks="exec sleep 60")
    code, steps = check(tmp_path / "out", "record", TMOR_GPU_CHECK_LIMIT="1", **tools)
    assert time.monotonic() - started < 30
    assert (code, steps["benchmarks"]["status"]) == (1, "timeout")


def test_the_limits_stay_below_nine_minutes() -> None:
    block = re.search(r"declare -A limit=\((.*?)\)", SCRIPT.read_text(), re.DOTALL)
    assert block is not None
    limits = dict(re.findall(r"\[(\w+)\]=(\d+)", block[1]))
    assert set(limits) == {step for steps in STEPS.values() for step in steps}
    for steps in STEPS.values():
        assert sum(int(limits[step]) + 2 for step in steps) < 540


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
