"""How far results are from those in float64: what claims about one op check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WRONG = 1e-5  # of the largest value: no form in float32 may reach it


def errors_against(
    truth: Mapping[str, Any], outputs: Mapping[str, Any], without: str = ""
) -> dict[str, dict[str, Any]]:
    """The largest error of every result, relative to the largest value; "wrong" where one reaches `WRONG` or is NaN.

    Args:
        truth: name of a result -> its tensor in float64.
        outputs: contender -> its results by name.
        without: the contender that has none of them, a part of the work.
    """
    facts: dict[str, dict[str, Any]] = {}
    for contender, output in outputs.items():
        if contender == without:
            continue
        errors = {
            name: float((output[name].double() - value).abs().max() / value.abs().max())
            for name, value in truth.items()
        }
        facts[contender] = {f"{name} error": f"{error:.1e}" for name, error in errors.items()}
        wrong = [name for name, error in errors.items() if not error < WRONG]
        if wrong:
            facts[contender]["wrong"] = f"{', '.join(wrong)} against float64"
    return facts
