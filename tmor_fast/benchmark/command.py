"""What `tmor bench` and `python benchmarks/run.py` share: find the claims, show progress, print what came out."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tmor_fast.benchmark.case import find_claims, load_claim
from tmor_fast.benchmark.runner import Request, run
from tmor_fast.benchmark.table import print_record


def claims_folder(given: Path | None) -> Path:
    """The folder of the claim files: as given, else `benchmarks` here or beside the package in a checkout."""
    if given is not None:
        return given
    places = [Path.cwd() / "benchmarks", Path(__file__).resolve().parents[2] / "benchmarks"]
    return next((place for place in places if place.is_dir() and find_claims(place)), places[0])


def bench(
    names: Sequence[str],
    *,
    quick: bool = False,
    out: Path | None = None,
    device: str = "cpu",
    options: Sequence[str] = (),
    threads: int | None = None,
    folder: Path | None = None,
    show: bool = False,
) -> int:
    """Run claims and print their tables. Arguments as in `runner.Request`; `show` only lists what there is.

    Returns:
        0, or 1 if a contender of ours failed or a check found something wrong.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {device!r}; accepted: cpu, cuda")
    place = claims_folder(folder)
    if show:
        _show(place)
        return 0
    target = out if out is not None else Path("runs") / time.strftime("benchmark-%Y%m%d-%H%M%S.json")
    if target.suffix != ".json":
        raise ValueError(f"--out must name a .json file, got {target}")
    asked = Request(place, target, names, quick, device, options, threads)
    with _progress() as report:
        record = run(asked, report)
    print_record(record)
    if record["machine"]["busy"]:
        print(f"warning: {record['machine']['busy']}", file=sys.stderr)
    print(f"{target} and {target.with_suffix('.html').name}: {record['seconds']:.0f} s")
    return int(_problems(record))


def _problems(record: dict) -> bool:
    return any(
        claim["reason"]
        or any("wrong" in facts for case in claim["cases"] for facts in case["check"].values())
        or any(
            entry["role"] == "ours" and entry["status"] not in ("ok", "unavailable")
            for case in claim["cases"]
            for entry in case["measurements"]
        )
        for claim in record["claims"]
    )


def _show(folder: Path) -> None:
    for name, path in find_claims(folder).items():
        claim = load_claim(path)
        print(f"{name}: {claim.title}")
        for option, (default, about) in claim.options.items():
            print(f"  --set {name}.{option}={default or '...'}  {about}")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Says what is going on: one changing line on a terminal, else a line for each new case."""
    shown: set[str] = set()

    def plain(message: str) -> None:
        head = " · ".join(message.split(" · ")[:2])
        if head not in shown:
            shown.add(head)
            print(f"{time.strftime('%H:%M:%S')} {head}", file=sys.stderr, flush=True)

    try:
        from rich.console import Console
    except ImportError:
        yield plain
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain
        return
    with console.status("starting") as status:
        yield lambda message: status.update(message.replace("[", "\\["))


def main(folder: Path | None = None) -> None:
    """The command line of `benchmarks/run.py`, which needs neither typer nor rich."""
    parser = argparse.ArgumentParser(description="Measure ours against its peers, in turn, on this machine.")
    parser.add_argument("names", nargs="*", help="claims to measure; none: all of them")
    parser.add_argument("--quick", action="store_true", help="each claim in about 20 seconds, on small sizes")
    parser.add_argument("--out", type=Path, help="JSON file; the page lies beside it. Default: under runs/")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--set", action="append", default=[], metavar="CLAIM.OPTION=VALUE", dest="options")
    parser.add_argument("--threads", type=int, help="threads of each process")
    parser.add_argument("--path", type=Path, default=folder, help="folder of the claim files")
    parser.add_argument("--list", action="store_true", help="show the claims and their options")
    given = parser.parse_args()
    try:
        status = bench(
            given.names, quick=given.quick, out=given.out, device=given.device, options=given.options,
            threads=given.threads, folder=given.path, show=given.list,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the record holds the cases that were finished")
    sys.exit(status)
