"""What a claim file declares: claims, their cases, and the contenders of a case."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

ROLES = ("ours", "peer", "floor")
PRECISIONS = ("fp64", "fp32", "tf32", "bf16", "fp16", "int8")

# What `setup` returns: one call is one measurement; it may return tensors by name, for the check.
Call = Callable[[], Any]


@dataclass(frozen=True)
class Settings:
    """What a run was asked for.

    Attributes:
        quick: each claim in about 20 seconds: small sizes, few repeats.
        device: "cpu" or "cuda".
        options: the claim's own options, name -> value.
    """

    quick: bool = False
    device: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)


# An option that claims may have, and what a case makes of it.
SECONDS = ("", "of timing for each contender, allocator for allocator; default: as the run has it")


def asked_seconds(settings: Settings) -> float | None:
    """The option `SECONDS` as a case takes it."""
    return float(settings.options["seconds"]) if settings.options["seconds"] else None


@dataclass(frozen=True)
class Contender:
    """One way of doing the work of a case.

    Args:
        name: as the tables show it; unique in its case.
        role: "ours", "peer", or "floor" (a part of the work that nobody can leave out).
        setup: makes the input in the contender's own process and returns the call to be measured.
        flops: floating-point (or integer) operations that one call executes, or a function that finds them out; None:
            operations and bytes are counted, operator by operator, by running it once under torch's counters.
        bytes: that one call reads and writes in main memory; None beside given `flops`: not known.
        precision: of its products, one of `PRECISIONS`; says which ceiling it is held against.
        unavailable: None if it can run here, else the reason why not; asked in its own process, before `setup`.
        environment: variables of its process, beside those of the allocator.
        one_call_first: call once before memory is watched (a compiler at work).
        headline: of several that are ours, the one that a user gets and ratios are quoted for.
        cuda_graph: on a GPU, replay a captured graph, because launches would show.
        note: what a reader must know, for example that it does only a part of the work.
    """

    name: str
    role: str
    setup: Callable[[], Call]
    flops: float | Callable[[], float] | None = None
    bytes: float | None = None
    precision: str = "fp32"
    unavailable: Callable[[], str | None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    one_call_first: bool = False
    headline: bool = False
    cuda_graph: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"contender {self.name!r}: unknown role {self.role!r}; accepted: {', '.join(ROLES)}")
        if self.precision not in PRECISIONS:
            accepted = ", ".join(PRECISIONS)
            raise ValueError(f"contender {self.name!r}: unknown precision {self.precision!r}; accepted: {accepted}")

    @property
    def operations(self) -> float | None:
        """`flops` as a number."""
        return self.flops() if callable(self.flops) else self.flops


@dataclass(frozen=True)
class Floor:
    """A time nobody can go below here: `flops` operations at the measured ceiling of `precision`, or, where that takes
    longer, `bytes` read and written at the rate of a copy."""

    name: str
    flops: float
    precision: str
    bytes: float = 0.0


@dataclass(frozen=True)
class Case:
    """One size of a claim, measured by several contenders.

    Args:
        name: unique in its claim.
        sizes: what the table and the plots call it, e.g. `{"n": 100_000, "d": 128}`.
        contenders: at least one.
        check: compares what the contenders' last calls returned, contender -> output (tensors by name, on the CPU).
            Returns facts by contender and, under "", about the case; a fact called "wrong" is a failure. Runs in a
            process of its own, outside all timing.
        floors: computed from the ceilings, not run.
        seconds: time of each contender, allocator for allocator; None: as the run has it.
        amount: what one call gets through and how many of it, e.g. ("clips", 256), for a rate beside the times.
    """

    name: str
    sizes: Mapping[str, int | float | str]
    contenders: Sequence[Contender]
    check: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]] | None = None
    floors: Sequence[Floor] = ()
    seconds: float | None = None
    amount: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        names = [contender.name for contender in self.contenders]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"case {self.name!r} needs contenders with names of their own, got {names}")

    def contender(self, name: str) -> Contender:
        """The contender called `name`."""
        return next(contender for contender in self.contenders if contender.name == name)


@dataclass(frozen=True)
class Claim:
    """What one claim file measures.

    Args:
        title: one line for tables and pages.
        cases: the cases under some settings.
        options: the options it takes, name -> (default, what it does).
        sweep: the size over which the page plots growth, if its cases differ in it.
    """

    title: str
    cases: Callable[[Settings], Sequence[Case]]
    options: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    sweep: str = ""

    def settle(self, settings: Settings) -> Settings:
        """`settings` with the defaults of this claim's options; ValueError for an option it does not have."""
        unknown = sorted(set(settings.options) - set(self.options))
        if unknown:
            known = ", ".join(self.options) or "none"
            raise ValueError(f"no option {', '.join(unknown)} in the claim '{self.title}'; it has: {known}")
        defaults = {name: default for name, (default, _) in self.options.items()}
        return Settings(settings.quick, settings.device, {**defaults, **settings.options})


def find_claims(folder: Path) -> dict[str, Path]:
    """The claim files of `folder`, name -> file: those that assign `CLAIM` at the top. None of them is run."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if any(isinstance(target, ast.Name) and target.id == "CLAIM" for target in targets):
                found[path.stem] = path
    return found


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the files of `folder` be imported by name; an installed library of the same name comes first."""
    place = str(folder.resolve())
    added = place not in sys.path
    if added:
        sys.path.append(place)
    try:
        yield
    finally:
        if added:
            sys.path.remove(place)


def load_file(path: Path) -> ModuleType:
    """A Python file of the claims' folder, run anew. At its top it may import other files of its folder by name.

    Those stay imported, as with any import: two folders in one process must not have helper files of the same name.

    Raises:
        ValueError: it is no Python file.
    """
    spec = importlib.util.spec_from_file_location(f"tmor_claim_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    with _importable(path.parent):
        spec.loader.exec_module(module)
    return module


def load_claim(path: Path) -> Claim:
    """The `CLAIM` of a claim file, which is run; see `load_file`.

    Raises:
        ValueError: the file has none.
    """
    claim = getattr(load_file(path), "CLAIM", None)
    if not isinstance(claim, Claim):
        raise ValueError(f"{path} declares no CLAIM of type tmor_fast.benchmark.Claim")
    return claim
