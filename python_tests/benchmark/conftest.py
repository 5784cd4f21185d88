"""Claim files without torch, so that their processes start in a tenth of a second."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

CLAIM = """
import os, sys, time
from tmor_fast.benchmark import Case, Claim, Contender, Floor, Settings

def working(amount=1000):
    def setup():
        print("noise on standard output")
        return lambda: sum(range(amount))
    return setup

def dying():
    return lambda: os._exit(7)

def broken():
    raise RuntimeError("no such /home/somebody/secret/data.bin")

def hanging():
    return lambda: time.sleep(60)

ANY = dict(flops=1e6, bytes=1e6)

def cases(settings):
    return [{cases}]

CLAIM = Claim("A claim of the tests", cases, options={{"amount": ("1000", "numbers to add")}}, sweep="n")
"""
GOOD = (
    'Case("good", {"n": 10}, [Contender("mine", "ours", working(int(settings.options["amount"])), headline=True, '
    '**ANY), Contender("theirs", "peer", working(5000), **ANY)], floors=[Floor("sum", 1e6, "fp32")])'
)


@pytest.fixture
def claim_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with one claim file; its cases are given as Python text."""

    def make(*cases: str, name: str = "sums") -> Path:
        folder = tmp_path / "benchmarks"
        folder.mkdir(exist_ok=True)
        text = textwrap.dedent(CLAIM).format(cases=", ".join(cases or (GOOD,)))
        (folder / f"{name}.py").write_text(text)
        return folder

    return make
