"""The tables of a run in the terminal, with rich where it is installed, else as plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]
HEADINGS = ("contender", "allocator", "median", "quartiles", "calls", "by ours", "memory", "compute", "copy")
CAPTION = (
    "by ours: time by that of ours; memory: peak beyond the input; compute, copy: share of the ceilings of this run "
    "(beyond 100 %: the machine was busier while the ceiling was measured, or tiles were skipped)"
)
_UNITS = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))


def _unit(seconds: float) -> tuple[str, float]:
    return next((unit for unit in _UNITS if seconds * unit[1] >= 1), _UNITS[-1])


def _digits(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def seconds_text(seconds: float | None) -> str:
    """A time with three digits and its unit."""
    if seconds is None:
        return "–"
    unit, factor = _unit(seconds)
    return f"{_digits(seconds * factor)} {unit}"


def range_text(low: float, high: float) -> str:
    """Two times in the unit of the higher one."""
    unit, factor = _unit(high)
    return f"{_digits(low * factor)}–{_digits(high * factor)} {unit}"


def bytes_text(size: float | None) -> str:
    """A size in binary units."""
    if size is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def share_text(share: float | None) -> str:
    """A share in per cent."""
    return "–" if share is None else f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def ratio_text(ratio: float | None) -> str:
    """How often ours fits."""
    return "–" if ratio is None else f"{ratio:.2f}×"


def title(case: Mapping[str, Any]) -> str:
    """A case's name and what its check found of the case itself."""
    facts = case["check"].get("", {})
    found = ", ".join(f"{name} {value}" for name, value in facts.items())
    return f"{case['name']}: {found}" if found else str(case["name"])


def quoted(case: Mapping[str, Any]) -> str:
    """The one line that is quoted of a case."""
    summary = case["summary"]
    if summary["ratio"] is None:
        return "no ratio: " + ("ours did not finish" if summary["ours"] is None else "no peer finished")
    return (
        f"the best peer, {summary['best_peer']} (allocator: {summary['best_peer_allocator']}), "
        f"takes {ratio_text(summary['ratio'])} the time of ours, {summary['ours']}"
    )


def rows(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of a case's table, a row for each contender and allocator, then its floors."""
    own = next(
        (
            entry["seconds"]["median"]
            for entry in case["measurements"]
            if entry["contender"] == case["summary"]["ours"] and entry["allocator"] == "default"
        ),
        None,
    )
    cells: list[tuple[str, ...]] = []
    for entry in case["measurements"]:
        if entry["status"] != "ok":
            continue
        time = entry["seconds"]
        cells.append(
            (
                entry["contender"],
                entry["allocator"],
                seconds_text(time["median"]),
                range_text(time["p25"], time["p75"]),
                str(time["n"]),
                ratio_text(time["median"] / own if own else None),
                bytes_text(entry["memory"]["peak_bytes"]),
                share_text(entry.get("share_of_compute")),
                share_text(entry.get("share_of_copy")),
            )
        )
    for floor in case["floors"]:
        ratio = floor["seconds"] / own if own and floor["seconds"] else None
        text = seconds_text(floor["seconds"])
        cells.append((f"floor: {floor['name']}", "", text, "", "", ratio_text(ratio), "", "", ""))
    return cells


def absent_lines(case: Mapping[str, Any]) -> list[str]:
    """Who did not finish, and why; a reason that holds under every allocator once."""
    absent: dict[tuple[str, str, str], list[str]] = {}
    for entry in case["measurements"]:
        if entry["status"] != "ok":
            absent.setdefault((entry["contender"], entry["status"], entry["reason"]), []).append(entry["allocator"])
    return [f"{name} ({', '.join(under)}): {status}: {reason}" for (name, status, reason), under in absent.items()]


def lines(case: Mapping[str, Any]) -> list[str]:
    """What stands under a case's table."""
    return [quoted(case), *rate_lines(case), *check_lines(case), *absent_lines(case)]


def rate_lines(case: Mapping[str, Any]) -> list[str]:
    """How much each contender gets through in a second, at its better allocator."""
    if not case.get("amount"):
        return []
    what, amount = case["amount"]
    best: dict[str, float] = {}
    for entry in case["measurements"]:
        if entry["status"] == "ok" and entry["role"] != "floor" and entry["seconds"]["median"]:
            rate = amount / entry["seconds"]["median"]
            best[entry["contender"]] = max(rate, best.get(entry["contender"], 0.0))
    return [f"{name}: {rate:,.0f} {what} a second" for name, rate in best.items()]


def check_lines(case: Mapping[str, Any]) -> list[str]:
    """What the check found of each contender."""
    return [
        f"{name}: " + ", ".join(f"{fact} {value}" for fact, value in facts.items())
        for name, facts in case["check"].items()
        if name
    ]


def ceiling_lines(record: Mapping[str, Any]) -> list[str]:
    """The ceilings, one a line."""
    lines = []
    for name, ceiling in (record.get("ceilings") or {}).items():
        if name == "copy":
            lines.append(f"copy: {ceiling['bytes_per_second'] / 1e9:.1f} GB/s read and written")
        elif ceiling["flops_per_second"]:
            lines.append(f"{name}: {ceiling['flops_per_second'] / 1e9:,.0f} G operations/s, {ceiling['route']}")
        else:
            reasons = "; ".join(f"{route}: {why}" for route, why in ceiling["refused"].items())
            lines.append(f"{name}: none ({reasons})")
    return lines


def print_record(record: Mapping[str, Any]) -> None:
    """Print ceilings and the table of every case."""
    try:
        from rich.console import Console
    except ImportError:
        _print_plain(record)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 120))
    console.print("Ceilings of this machine, measured in this run", style="bold")
    for line in ceiling_lines(record):
        console.print(f"  {line}", highlight=False, markup=False)
    for claim in record["claims"]:
        console.print()
        console.print(claim["title"], style="bold", markup=False)
        if claim.get("reason"):
            console.print(f"  {claim['reason']}", style="red", markup=False)
        for case in claim["cases"]:
            _print_case(console, case)
    console.print(CAPTION, style="dim", highlight=False)


def _print_case(console: Any, case: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title(case)), title_justify="left")
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if place < 2 else "right")
    ours = {entry["contender"] for entry in case["measurements"] if entry["role"] == "ours"}
    for cells in rows(case):
        style = "green" if cells[0] in ours else "dim" if cells[0].startswith("floor") else None
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    for line in lines(case):
        console.print(line, markup=False, highlight=False)


def _print_plain(record: Mapping[str, Any]) -> None:
    print("Ceilings of this machine, measured in this run")
    for line in ceiling_lines(record):
        print(f"  {line}")
    for claim in record["claims"]:
        print(f"\n{claim['title']}")
        if claim.get("reason"):
            print(f"  {claim['reason']}")
        for case in claim["cases"]:
            print(f"\n{title(case)}")
            for cells in aligned([HEADINGS, *rows(case)]):
                print(f"  {cells}")
            for line in lines(case):
                print(f"  {line}")
    print(f"\n{CAPTION}")


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
