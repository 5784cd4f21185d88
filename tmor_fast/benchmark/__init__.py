"""Measuring: ours and its peers in turn, each in a process of its own, against ceilings measured in the same run.

A claim file (`benchmarks/<claim>.py` of the repository) declares a `CLAIM`; `tmor bench` and `python benchmarks/run.py`
measure it, and leave a JSON record and one HTML page. What several claims share lies beside them, in a file that
declares none, and is imported by name.
"""

from tmor_fast.benchmark.case import SECONDS, Call, Case, Claim, Contender, Floor, Settings, asked_seconds

__all__ = ["SECONDS", "Call", "Case", "Claim", "Contender", "Floor", "Settings", "asked_seconds"]
