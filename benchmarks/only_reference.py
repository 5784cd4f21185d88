"""The reference equations in place of the kernels: what benchmarks compare whole runs with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def only_reference(ops: Sequence[str]) -> Iterator[None]:
    """Let "auto" of some ops take their reference."""
    from tmor_fast.ops import registry  # brings torch, which a listing of claims can do without

    choose = registry.choose

    def chosen(name: str, backend: str, candidates: Any) -> str:
        return choose(name, "reference" if name in ops and backend == "auto" else backend, candidates)

    with mock.patch.object(registry, "choose", chosen):
        yield
