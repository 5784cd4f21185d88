"""Two gloo processes against one: losses, gradients, queues, sharded banks, the objective; `ranks.py` does the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORLD = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Any, Any]]]:
    """What each rank found: (got, expected) by the name of the case."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = [sys.executable, str(Path(__file__).parent / "ranks.py")]
    ranks = [
        subprocess.Popen(
            [*program, str(rank), str(WORLD), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(WORLD)
    ]
    try:
        errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * WORLD, "\n".join(errors)
    return [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in range(WORLD)]


def check(found: list[dict[str, tuple[Any, Any]]], start: str, expected_cases: int) -> None:
    names = [name for name in found[0] if name.startswith(start)]
    assert len(names) == expected_cases, sorted(found[0])
    for cases in found:
        for name in names:
            got, expected = cases[name]
            torch.testing.assert_close(
                got, expected, rtol=1e-7, atol=1e-9, msg=lambda shown, name=name: f"{name}: {shown}"
            )


@pytest.mark.parametrize(
    ("start", "cases"),
    [("ntxent", 1), ("infonce", 1), ("supcon", 4), ("queue", 5), ("uneven", 2), ("sharded", 31), ("objective", 2)],
)
def test_two_processes_give_the_loss_and_gradients_of_one(found: list[dict[str, Any]], start: str, cases: int):
    check(found, start, cases)


@pytest.mark.parametrize("local", [False, True])
def test_clip_of_two_processes_with_gradients_through_the_gathering_is_that_of_one(found: list[Any], local: bool):
    check(found, f"clip local={local} gather=True", 1)


def test_clip_without_gradients_through_the_gathering_is_what_its_table_says(found: list[dict[str, Any]]):
    for cases in found:
        (loss, weight, scale), (one_loss, one_weight, one_scale) = cases["clip local=False gather=False"]
        torch.testing.assert_close(loss, one_loss)
        torch.testing.assert_close(weight * WORLD, one_weight)
        torch.testing.assert_close(scale, one_scale)
        (loss, weight, _), (one_loss, one_weight, _) = cases["clip local=True gather=False"]
        torch.testing.assert_close(loss, one_loss)
        assert not torch.allclose(weight, one_weight, rtol=1e-2)


def test_clip_on_each_rank_is_open_clips(found: list[dict[str, Any]]):
    pytest.importorskip("open_clip")
    check(found, "open_clip", 4)
