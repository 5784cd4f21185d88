"""Measure every claim, or those named, on this machine: a table, a JSON record and one HTML page.

    python benchmarks/run.py [--quick] [--out FILE] [--device cuda] [--set claim.option=value] [names]

The same as `tmor bench`, with torch, numpy and tmor_fast alone; rich makes the tables nicer where it is installed.
"""

from __future__ import annotations

from pathlib import Path

from tmor_fast.benchmark.command import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
