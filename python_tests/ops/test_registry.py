from __future__ import annotations

import pytest

from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import registry

CANDIDATES: dict[str, registry.Check] = {"fast": lambda: "no such chip", "slow": lambda: None, "other": lambda: None}


def test_auto_takes_the_first_that_can_run() -> None:
    assert registry.choose("op", "auto", CANDIDATES) == "slow"


def test_a_backend_by_name() -> None:
    assert registry.choose("op", "other", CANDIDATES) == "other"


def test_unavailable_says_why() -> None:
    with pytest.raises(BackendUnavailableError, match=r"op: backend 'fast' cannot run: no such chip"):
        registry.choose("op", "fast", CANDIDATES)


def test_unknown_lists_what_is_accepted() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'gpu'; accepted: 'auto', 'fast', 'slow', 'other'"):
        registry.choose("op", "gpu", CANDIDATES)


def test_auto_without_any() -> None:
    with pytest.raises(BackendUnavailableError, match="fast: no such chip"):
        registry.choose("op", "auto", {"fast": CANDIDATES["fast"]})


def test_not_compiled_is_a_reason() -> None:
    with pytest.raises(BackendUnavailableError, match="not compiled into this build"):
        registry.choose("op", "cuda", {"cuda": registry.not_compiled})
